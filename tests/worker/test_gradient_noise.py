"""The burn-in and its measurements in the worker, on real models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from autobatch.decision.constants import FEWEST_CHUNKS
from autobatch.decision.noise_scale import Chunks, noise_scale
from autobatch.engines import messages
from autobatch.worker import gradient_noise
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer


def trainer(model: nn.Module, samples: int, **parts: Any) -> Trainer:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 4, generator=random)
    dataset = (inputs, inputs @ torch.randn(4, 1, generator=random))
    found = Parts(model=model, dataset=dataset, **parts)
    return Trainer(found, open_samples(dataset), None, "cpu")


def command(**given: Any) -> messages.MeasureNoise:
    usual: dict[str, Any] = {
        "batch_size": 16,
        "learning_rate_factor": 1.0,
        "seconds": 2000.0,
        "burn_in_seconds": 1000.0,
        "most_samples": 512,
        "largest_chunk": 64,
    }
    return messages.MeasureNoise(**(usual | given))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


def samples_in(one: Chunks) -> int:
    return one.chunk_size * len(one.squared_norms)


class Failing(nn.Module):
    """Raises from its `calls`-th forward pass on."""

    def __init__(self, calls: int, error: Exception) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)
        self.calls = calls
        self.error = error

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        found: torch.Tensor = self.body(inputs)
        return found


def test_three_measurements_along_two_epochs() -> None:
    made = trainer(nn.Linear(4, 1), 640)
    found = gradient_noise.run(made, command())
    assert found.error == ""
    assert found.burn_in_steps == made.optimizer_steps == 2 * 640 // 16
    assert len(found.measured) == 3
    assert len({one.squared_norms for one in found.measured}) == 3
    for one in found.measured:
        assert samples_in(one) <= 512
        assert len(one.inner_products) == len(one.squared_norms) == 32
        noise_scale(one.chunk_size, one.squared_norms, one.inner_products, one.sum_squared_norm)


def test_a_burn_in_of_no_time_still_measures() -> None:
    found = gradient_noise.run(trainer(nn.Linear(4, 1), 640), command(burn_in_seconds=0.0))
    assert (found.burn_in_steps, found.error, len(found.measured)) == (0, "", 3)


@pytest.mark.parametrize("model", [nn.Linear(4, 1), with_batch_norm()], ids=["plain", "batch norm"])
def test_three_samples_are_too_few(model: nn.Module) -> None:
    found = gradient_noise.run(trainer(model, 3), command(batch_size=2, largest_chunk=2))
    assert found.measured == ()
    assert found.error == ""
    assert found.burn_in_steps == 3


def test_forty_samples_are_enough() -> None:
    found = gradient_noise.run(trainer(nn.Linear(4, 1), 40), command())
    assert found.burn_in_steps == 5
    assert [samples_in(one) for one in found.measured] == [40, 40, 40]


@pytest.mark.parametrize("samples", [40, 100, 640])
def test_chunks_under_batch_norm_hold_eight_samples(samples: int) -> None:
    found = gradient_noise.run(trainer(with_batch_norm(), samples), command())
    assert len(found.measured) == 3
    for one in found.measured:
        assert one.chunk_size >= 8
        assert len(one.squared_norms) >= FEWEST_CHUNKS
        assert samples_in(one) <= samples


@pytest.mark.parametrize("most", [4, 64, 100, 1000])
def test_no_more_samples_than_asked_for(most: int) -> None:
    found = gradient_noise.run(trainer(nn.Linear(4, 1), 4096), command(most_samples=most, batch_size=512))
    assert len(found.measured) == 3
    assert all(most - 32 < samples_in(one) <= most for one in found.measured)


@pytest.mark.parametrize(("model", "largest"), [(nn.Linear(4, 1), 1), (with_batch_norm(), 4)])
def test_no_chunk_is_larger_than_permitted(model: nn.Module, largest: int) -> None:
    found = gradient_noise.run(trainer(model, 640), command(largest_chunk=largest))
    assert [one.chunk_size for one in found.measured] == [largest] * 3


def test_single_samples_keep_no_more_than_a_thousand_rows() -> None:
    found = gradient_noise.run(
        trainer(nn.Linear(4, 1), 8192),
        command(largest_chunk=1, most_samples=8192, burn_in_seconds=0.0),
    )
    assert all(len(one.squared_norms) <= 1024 for one in found.measured)


def test_an_error_keeps_what_was_measured_before() -> None:
    # 640 samples: 20 steps of burn-in, 32 chunks, then the next burn-in fails.
    made = trainer(Failing(20 + 32 + 5, RuntimeError("boom\nand more")), 640)
    found = gradient_noise.run(made, command())
    assert found.error == "RuntimeError: boom"
    assert len(found.measured) == 1
    assert found.burn_in_steps == 25


def test_an_error_at_once() -> None:
    found = gradient_noise.run(trainer(Failing(0, ValueError("no")), 640), command())
    assert found == messages.Noise(measured=(), burn_in_steps=0, error="ValueError: no")


def test_a_loop_of_the_users_own_is_told_in_words() -> None:
    made = trainer(nn.Linear(4, 1), 64, step=lambda model, optimizer, batch: None)
    found = gradient_noise.run(made, command())
    assert found.measured == ()
    assert found.error == "your `step` keeps its gradients to itself"


def test_a_training_that_diverges_is_an_error_that_can_be_sent() -> None:
    made = trainer(
        nn.Linear(4, 1),
        640,
        optimizer=lambda parameters: torch.optim.SGD(list(parameters), lr=1e6),
    )
    found = gradient_noise.run(made, command())
    assert found.error == "the gradient became infinite or not a number"
    assert msgspec.json.decode(msgspec.json.encode(found), type=messages.Noise) == found


def test_a_stream_is_refused_in_words() -> None:
    """It gives the same samples each time, whose gradients would not differ."""

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(torch.ones(4), torch.ones(1))] * 64)

    parts = Parts(model=nn.Linear(4, 1), dataset=Stream())
    streamed = Trainer(parts, open_samples(parts.dataset), None, "cpu")
    assert "stream" in gradient_noise.run(streamed, command()).error


def test_past_its_time_a_measurement_ends_with_the_fewest_chunks() -> None:
    found = gradient_noise.run(trainer(nn.Linear(4, 1), 512), command(seconds=0.0))
    assert [len(one.squared_norms) for one in found.measured] == [FEWEST_CHUNKS]


class Grouped(nn.Module):
    """Takes whole groups of `group` rows, at least `groups` of them."""

    def __init__(self, group: int, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)
        self.group = group
        self.groups = groups

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) % self.group or len(inputs) < self.group * self.groups:
            raise ValueError(f"{len(inputs)} rows are no whole groups of {self.group}")
        found: torch.Tensor = self.body(inputs)
        return found


@pytest.mark.parametrize(("group", "groups", "samples"), [(3, 1, 300), (5, 2, 4096), (7, 1, 640)])
def test_chunks_hold_whole_groups(group: int, groups: int, samples: int) -> None:
    made = trainer(Grouped(group, groups), samples)
    asked = {"batch_size": 10 * group, "largest_chunk": 10 * group}
    found = gradient_noise.run(made, command(**asked, smallest_chunk=group * groups, multiple_of=group))
    assert found.error == ""
    assert len(found.measured) == 3
    for one in found.measured:
        assert one.chunk_size % group == 0
        assert one.chunk_size >= group * groups
        assert samples_in(one) <= samples

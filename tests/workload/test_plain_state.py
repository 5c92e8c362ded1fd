"""Attributes, buffers and schedules are put back, as the same objects; data is left alone."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.plain_state import PlainState
from autobatch.workload.trainer import Trainer


class Keeping(nn.Module):
    """Keeps state of every kind from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)
        self.hidden: torch.Tensor | None = None
        self.calls = 0
        self.history: list[torch.Tensor] = []
        self.counts = {"seen": torch.zeros(1), "names": {"a"}}
        self.recent: deque[int] = deque(maxlen=3)
        self.mean = numpy.zeros(4)
        self.plain = torch.zeros(4)
        self.other: Any = object()
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.hidden = inputs.detach() if self.hidden is None else self.hidden + inputs.detach()
        self.history.append(self.hidden)
        self.counts["seen"] += len(inputs)
        self.counts["names"].add("b")
        self.recent.append(self.calls)
        self.mean += 1.0
        self.plain += 1.0
        self.cache = inputs
        assert isinstance(self.at, torch.Tensor)
        self.at += len(inputs)
        found: torch.Tensor = self.body(inputs)
        return found


def trainer(model: nn.Module) -> Trainer:
    dataset = (torch.randn(64, 4), torch.randn(64, 1))
    parts = Parts(model=model, dataset=dataset, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    return Trainer(parts, open_samples(dataset), None, "cpu")


def test_state_of_every_kind_is_put_back_and_stays_the_same_object() -> None:
    model = Keeping()
    made = trainer(model)
    history, plain, mean, other = model.history, model.plain, model.mean, model.other
    first = PlainState(made)
    for size in (8, 8):
        made.step(made.load(size, 0))
    model.plain, model.history = torch.ones(4), [torch.ones(1)]
    first.restore()
    assert (model.calls, model.hidden, list(model.recent)) == (0, None, [])
    assert not hasattr(model, "cache")
    assert (int(model.counts["seen"]), model.counts["names"], int(model.at)) == (0, {"a"}, 0)
    assert model.history is history
    assert model.plain is plain
    assert model.mean is mean
    assert model.other is other
    assert (history, plain.tolist(), mean.tolist()) == ([], [0.0] * 4, [0.0] * 4)
    made.step(made.load(4, 0))


def test_the_attributes_that_carry_tensors_are_named() -> None:
    model = Keeping()
    made = trainer(model)
    first = PlainState(made)
    assert first.carried() == ()
    made.step(made.load(8, 0))
    assert set(first.carried()) == {"Keeping.hidden", "Keeping.cache", "Keeping.at"}
    calls = model.calls
    first.drop_tensors()
    assert (model.hidden, model.calls) == (None, calls)
    assert not hasattr(model, "cache")
    made.step(made.load(4, 0))


def test_a_schedule_and_the_settings_of_its_optimizer_start_again() -> None:
    made = trainer(nn.Linear(4, 1))
    (optimizer,) = made.optimizers
    schedule = OneCycleLR(optimizer, max_lr=0.5, total_steps=20)
    rates = [group["lr"] for group in optimizer.param_groups]
    first = PlainState(made)
    for _ in range(5):
        for _ in range(19):
            made.step(made.load(8, 0))
            schedule.step()
        first.restore()
        assert schedule.last_epoch == 0
        assert [group["lr"] for group in optimizer.param_groups] == rates


def test_layers_of_torch_carry_nothing_that_depends_on_the_batch() -> None:
    made = trainer(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    first = PlainState(made)
    made.step(made.load(8, 0))
    assert first.carried() == ()


def test_large_values_are_not_copied() -> None:
    model = nn.Linear(4, 1)
    vocabulary = {number: str(number) for number in range(5000)}
    model.vocabulary = vocabulary  # type: ignore[assignment]
    first = PlainState(trainer(model))
    vocabulary.clear()
    first.restore()
    assert not vocabulary

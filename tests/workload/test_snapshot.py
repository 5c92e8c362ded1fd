"""A training that is taken back leaves nothing behind: weights, buffers, optimizers and random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are not worth threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer(model: nn.Module, optimizer: MakeOptimizer | None = None) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    dataset = (torch.randn(64, 4, generator=generator), torch.randn(64, 1, generator=generator))
    parts = Parts(model=model, dataset=dataset, optimizer=optimizer)
    return Trainer(parts, open_samples(dataset), None, "cpu")


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rich_model() -> nn.Module:
    """BatchNorm's running statistics, dropout's random numbers."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.there = nn.Linear(4, 4)
        self.back = nn.Linear(4, 4)
        self.back.weight = self.there.weight
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.back(self.there(inputs).relu()))
        return found


class Replacing(nn.Module):
    """Puts a new tensor in the place of its buffer at each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("cache", torch.zeros(3), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)
            self.cache = self.cache + 1
        found: torch.Tensor = self.body(inputs - self.mean)
        return found


class LateBuffer(nn.Module):
    """Makes its buffer in the first forward pass."""

    mean: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)
        self.register_buffer("mean", None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.mean is None:
            self.mean = inputs.detach().mean(0)
        found: torch.Tensor = self.body(inputs - self.mean)
        return found


class ExpandedBuffer(nn.Module):
    """A buffer whose entries share their memory, as those of `expand` do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)
        self.register_buffer("mask", torch.ones(1).expand(4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(inputs * self.mask)
        return found


def with_momentum(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)


def two_optimizers(parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
    first, *rest = parameters
    return [AdamW([first], lr=0.01, amsgrad=True), SGD(rest, lr=0.1, momentum=0.9)]


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1),
    "momentum": with_momentum,
    "adam": lambda parameters: Adam(parameters, lr=0.01),
    "two": two_optimizers,
}


def train(made: Trainer, steps: int, seed: int = 0) -> list[float]:
    losses = []
    for i in range(steps):
        loss = made.step(made.load(8, seed + i))
        assert loss is not None
        losses.append(float(loss))
        # What a data set or a model of the user's may draw.
        random.random()
        np.random.random()
    return losses


def flattened(value: Any) -> list[Any]:
    """Everything in nested states, with tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        return [value.dtype, tuple(value.shape), value.detach().cpu().numpy().tobytes()]
    if isinstance(value, np.ndarray):
        return [value.tobytes()]
    if isinstance(value, dict):
        return [
            part for key in sorted(value, key=str) for part in (key, *flattened(value[key]), "end of a value")
        ]
    if isinstance(value, (list, tuple)):
        return [part for one in value for part in (*flattened(one), "end of a value")]
    return [value]


def state(made: Trainer) -> list[Any]:
    """Every bit that a training can change."""
    return flattened(
        [
            dict(made.model.named_parameters()),
            dict(made.model.named_buffers()),
            [optimizer.state_dict() for optimizer in made.optimizers],
            random.getstate(),
            np.random.get_state(),
            torch.get_rng_state(),
        ]
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", [rich_model, Tied, Replacing], ids=lambda make: make.__name__)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_everything_is_put_back_bit_by_bit(
    model: Callable[[], nn.Module], optimizer: str, steps_before: int
) -> None:
    seed_everything(1)
    made = trainer(model(), OPTIMIZERS[optimizer])
    train(made, steps_before)
    start, before = Snapshot(made), state(made)
    train(made, 5, seed=100)
    assert state(made) != before
    start.restore()
    assert state(made) == before


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_training_follows_each_restore(optimizer: str) -> None:
    seed_everything(2)
    made = trainer(rich_model(), OPTIMIZERS[optimizer])
    train(made, 2)
    start = Snapshot(made)
    runs, ends = [], []
    for _ in range(3):
        start.restore()
        runs.append(train(made, 6, seed=50))
        ends.append(state(made))
    assert runs[0] == runs[1] == runs[2]
    assert ends[0] == ends[1] == ends[2]
    assert len(set(runs[0])) == 6


def test_a_restore_right_after_a_restore_changes_nothing() -> None:
    made = trainer(rich_model(), with_momentum)
    start = Snapshot(made)
    train(made, 3)
    start.restore()
    before = state(made)
    start.restore()
    assert state(made) == before


def test_taking_it_changes_nothing() -> None:
    seed_everything(3)
    made = trainer(rich_model(), OPTIMIZERS["adam"])
    train(made, 3)
    before = state(made)
    Snapshot(made)
    assert state(made) == before


def test_the_random_numbers_of_all_three_come_again() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    start = Snapshot(trainer(nn.Linear(4, 1)))
    first = drawn()
    assert drawn() != first
    for _ in range(2):
        start.restore()
        assert drawn() == first


def test_tied_weights_stay_one() -> None:
    made = trainer(Tied(), with_momentum)
    start = Snapshot(made)
    train(made, 3)
    start.restore()
    assert made.model.back.weight is made.model.there.weight
    train(made, 1)
    assert torch.equal(made.model.back.weight, made.model.there.weight)


def test_the_optimizer_keeps_training_the_model() -> None:
    """Were the parameters replaced, it would go on with tensors that nobody reads."""
    made = trainer(rich_model(), OPTIMIZERS["adam"])
    start = Snapshot(made)
    start.restore()
    weights = [p for p in made.model.parameters() if p.ndim > 1]
    before = [p.detach().clone() for p in weights]
    train(made, 1)
    assert made.optimizer_steps == 1
    assert not any(torch.equal(p, old) for p, old in zip(weights, before, strict=True))


def test_a_buffer_that_was_replaced_is_the_old_tensor_again() -> None:
    model = Replacing()
    made = trainer(model)
    train(made, 2)
    mean, values = model.mean, model.mean.clone()
    start = Snapshot(made)
    for _ in range(2):
        train(made, 3)
        assert model.mean is not mean
        start.restore()
        assert model.mean is mean
        assert torch.equal(model.mean, values)
        assert model.cache.tolist() == [2.0] * 3
        assert dict(model.named_buffers())["mean"] is mean


def test_gradients_are_forgotten() -> None:
    made = trainer(rich_model())
    start = Snapshot(made)
    made.backward(made.load(8, 0))
    assert any(p.grad is not None for p in made.model.parameters())
    start.restore()
    assert all(p.grad is None for p in made.model.parameters())


def test_scaled_learning_rates_are_put_back() -> None:
    made = trainer(rich_model(), two_optimizers)
    schedule = torch.optim.lr_scheduler.ExponentialLR(made.optimizers[1], 0.5)
    start = Snapshot(made)
    made.scale_learning_rates(7.0)
    train(made, 2)
    schedule.step()
    start.restore()
    assert [group["lr"] for one in made.optimizers for group in one.param_groups] == [0.01, 0.1]
    assert made.optimizers[1].param_groups[0]["initial_lr"] == 0.1


def test_not_a_number_is_taken_back_too() -> None:
    made = trainer(rich_model(), lambda parameters: SGD(parameters, lr=1e30, momentum=0.9))
    start = Snapshot(made)
    before = state(made)
    assert not all(np.isfinite(train(made, 4)))
    start.restore()
    assert state(made) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_types_are_put_back(dtype: torch.dtype) -> None:
    model = rich_model().to(dtype)
    made = trainer(nn.Sequential(Cast(dtype), model, Cast(torch.float32)), OPTIMIZERS["adam"])
    start = Snapshot(made)
    before = [p.detach().clone() for p in model.parameters()]
    train(made, 3)
    start.restore()
    after = list(model.parameters())
    assert all(one.dtype is dtype and torch.equal(one, old) for one, old in zip(after, before, strict=True))


class Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.to(self.dtype)


def test_frozen_parameters_stay_frozen() -> None:
    model = rich_model()
    next(model.parameters()).requires_grad_(False)
    made = trainer(model, lambda parameters: SGD(parameters, lr=0.1))
    start = Snapshot(made)
    train(made, 2)
    start.restore()
    assert [p.requires_grad for p in model.parameters()].count(False) == 1


def test_a_buffer_whose_entries_share_memory() -> None:
    model = ExpandedBuffer()
    made = trainer(model)
    start = Snapshot(made)
    train(made, 2)
    model.mask = torch.zeros(4)
    for _ in range(2):
        start.restore()
        assert torch.equal(model.mask, torch.ones(4))
        train(made, 1)


def test_a_lazy_model_before_its_first_batch() -> None:
    made = trainer(nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(1)))
    made.materialize()
    start = Snapshot(made)
    train(made, 2)
    start.restore()


def test_a_buffer_made_by_a_forward_pass() -> None:
    model = LateBuffer()
    made = trainer(model)
    start = Snapshot(made)
    train(made, 2)
    start.restore()
    assert model.mean is None

"""Short trainings in the worker, on real models: the same samples, the same start, and every way to end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import Dataset, IterableDataset

from autobatch.decision.loss_curves import match, why_worse
from autobatch.engines import messages
from autobatch.records.check import Training
from autobatch.records.trial import Outcome
from autobatch.worker import short_training
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer

VALIDATION = 10_000
"""Rows of validation data are numbered from here on."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are not worth threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Clock:
    """Time that passes in the model's forward passes alone, so that it repeats exactly."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.perf_counter", made)
    return made


class Watched(nn.Module):
    """A model that notes which rows it sees, in training and else, and takes time by the clock.

    A row's first entry is its number; the others are its inputs.
    """

    def __init__(self, body: nn.Module, clock: Clock, per_step: float = 1.0, per_sample: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.clock = clock
        self.per_step, self.per_sample = per_step, per_sample
        self.trained_on: list[int] = []
        self.judged_on: list[int] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.per_step + self.per_sample * len(rows)
        (self.trained_on if self.training else self.judged_on).extend(rows[:, 0].int().tolist())
        found: torch.Tensor = self.body(rows[:, 1:])
        return found


class Failing(nn.Module):
    """Raises from its `calls`-th forward pass in training on."""

    def __init__(self, calls: int, error: BaseException) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)
        self.calls = calls
        self.error = error

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls -= self.training
        if self.calls < 0:
            raise self.error
        found: torch.Tensor = self.body(inputs)
        return found


class NoNumberInEvaluation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(inputs)
        return found if self.training else found * math.nan


def rows(count: int, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A regression that a linear model can learn, with some noise."""
    generator = torch.Generator().manual_seed(first)
    inputs = torch.randn(count, 4, generator=generator)
    target = inputs.sum(1, keepdim=True) + 0.3 * torch.randn(count, 1, generator=generator)
    return torch.cat([first + torch.arange(count)[:, None], inputs], dim=1), target


def sgd(rate: float = 0.02, **settings: Any) -> Callable[[Iterable[nn.Parameter]], Any]:
    return lambda parameters: SGD(parameters, lr=rate, **settings)


def trainer(model: nn.Module, dataset: Any, validation: Any = None, **parts: Any) -> Trainer:
    found = Parts(**{"model": model, "dataset": dataset, "optimizer": sgd(), **parts})
    held = None if validation is None else open_samples(validation)
    return Trainer(found, open_samples(dataset), held, "cpu")


def with_dropout() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))


def linear() -> nn.Module:
    torch.manual_seed(5)
    return nn.Linear(4, 1)


def command(batch_size: int = 8, **given: Any) -> messages.Train:
    usual: dict[str, Any] = {
        "learning_rate_factor": 1.0,
        "seconds": 30.5,
        "samples": 64,
        "part_size": 8,
        "seed": 0,
    }
    return messages.Train(batch_size=batch_size, **(usual | given))


def training(made: Trainer, start: Snapshot | None = None, **given: Any) -> Training:
    found = short_training.run(made, start or Snapshot(made), command(**given)).training
    assert found is not None
    return found


def steps_of(found: Training) -> list[int]:
    return [one.steps for one in found.evaluations]


# A training that ends well


def test_it_trains_for_the_time_given_and_is_judged_along_the_way(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(400))
    found = training(made, seconds=30.5, samples=32, part_size=8)
    assert found.outcome is Outcome.OK
    assert found.detail == ""
    # A second a step, and one for each of four parts.
    assert steps_of(found) == [0, 4, 5, 6, 8, 10, 11]
    assert found.steps == made.optimizer_steps == 11
    assert all(len(one.losses) == 4 for one in found.evaluations)
    assert all(math.isfinite(loss) for one in found.evaluations for loss in one.losses)


def test_only_steps_count_as_its_seconds(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock, per_step=2.0), rows(400))
    found = training(made, seconds=100.0)
    assert found.seconds == pytest.approx(2.0 * found.steps)
    assert [one.seconds for one in found.evaluations] == pytest.approx([2.0 * at for at in steps_of(found)])
    # It ends by the time that has passed, evaluations included.
    assert 2 * found.steps < 100 < clock.now < 130


def test_two_sizes_are_judged_after_the_same_steps_on_the_same_samples(clock: Clock) -> None:
    model = Watched(linear(), clock, per_sample=0.02)
    made = trainer(model, rows(2000), rows(100, VALIDATION))
    start = Snapshot(made)
    found, judged = {}, {}
    for size in (8, 64):
        model.judged_on.clear()
        found[size] = training(made, start, batch_size=size, seconds=300.0, part_size=16)
        judged[size] = set(model.judged_on)
    assert found[8].outcome is found[64].outcome is Outcome.OK
    assert found[8].steps > found[64].steps >= 12
    assert set(steps_of(found[64])[:-1]) < set(steps_of(found[8]))
    assert judged[8] == judged[64]
    assert len(judged[8]) == 64


def test_what_it_finds_can_be_compared(clock: Clock) -> None:
    """The loss falls, larger batches need fewer steps, and neither is worse than the other."""
    model = Watched(linear(), clock)
    made = trainer(model, rows(4000), rows(200, VALIDATION))
    start = Snapshot(made)
    small, large = (training(made, start, batch_size=size, seconds=400.0) for size in (4, 64))
    assert small.evaluations[0].losses > small.evaluations[-1].losses
    assert match([small, large]) is not None
    assert why_worse(small, large) == ""


def test_no_time_at_all_is_one_step_between_two_evaluations(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(400))
    found = training(made, seconds=0.0)
    assert (found.steps, steps_of(found), made.optimizer_steps) == (1, [0, 1], 1)


def test_the_reply_can_be_sent_and_says_what_was_held_out(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(400))
    found = short_training.run(made, Snapshot(made), command())
    assert found.held_out == "40 samples held out of the training set"
    assert msgspec.json.decode(msgspec.json.encode(found), type=messages.Trained) == found


def test_the_loss_of_a_part_is_that_of_its_samples(clock: Clock) -> None:
    model = Watched(linear(), clock)
    held = rows(40, VALIDATION)
    made = trainer(model, rows(100), held, optimizer=sgd(rate=0.0))
    found = training(made, seconds=0.0, samples=40, part_size=10)
    with torch.no_grad():
        errors = (model.body(held[0][:, 1:]) - held[1]).square().flatten()
    numbers = torch.tensor(model.judged_on) - VALIDATION
    first, last = numbers.split(40)
    expected = [float(errors[part].mean()) for part in first.split(10)]
    assert found.evaluations[0].losses == pytest.approx(expected, rel=1e-5)
    assert sorted(first.tolist()) == list(range(40))
    assert first.tolist() == last.tolist()


def test_parts_are_of_equal_size(clock: Clock) -> None:
    """What is left over is left out, unless it is all there is."""
    model = Watched(linear(), clock)
    made = trainer(model, rows(100), rows(50, VALIDATION))
    start = Snapshot(made)
    for part_size, parts in ((16, 3), (50, 1), (64, 1), (7, 7), (1, 50)):
        model.judged_on.clear()
        found = training(made, start, seconds=0.0, part_size=part_size)
        assert len(found.evaluations[0].losses) == parts
        assert len(model.judged_on) == 2 * parts * min(part_size, 50), "before the step and after"


def test_a_training_step_of_the_users_own_is_judged_too(clock: Clock) -> None:
    def training_step(model: nn.Module, batch: Any) -> torch.Tensor:
        clock.now += 1
        return (model(batch[0][:, 1:]) - batch[1]).abs().mean()

    made = trainer(linear(), rows(400), training_step=training_step)
    found = training(made)
    assert found.outcome is Outcome.OK
    assert len(found.evaluations) > 3


# The first weights, and whole trainings


def test_the_loss_of_the_first_weights_is_that_at_step_0(clock: Clock) -> None:
    model = Watched(linear(), clock)
    held = rows(40, VALIDATION)
    made = trainer(model, rows(100), held)
    with torch.no_grad():
        expected = float((model.body(held[0][:, 1:]) - held[1]).square().mean())
    start = Snapshot(made)
    for size in (8, 64):
        first = training(made, start, batch_size=size, samples=40, part_size=40).evaluations[0]
        assert (first.steps, first.seconds) == (0, 0.0)
        assert first.losses == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(("size", "samples", "steps"), [(8, 800, 100), (64, 800, 12), (8, 1, 1), (16, 40, 2)])
def test_it_ends_after_so_many_samples(size: int, samples: int, steps: int, clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(400))
    found = training(made, batch_size=size, seconds=1e6, most_samples=samples)
    assert found.outcome is Outcome.OK
    assert found.steps == made.optimizer_steps == steps
    assert found.evaluations[-1].steps == steps


def test_the_time_ends_it_before_so_many_samples(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(400))
    found, unlimited = (training(made, seconds=100.0, most_samples=most) for most in (10**6, None))
    assert found.steps == unlimited.steps


@given(st.integers(20, 5000))
def test_the_last_quarter_of_a_whole_training_has_five_evaluations(most_steps: int) -> None:
    def evaluated(most: float) -> list[int]:
        steps = [0]
        while steps[-1] < most_steps:
            steps.append(min(most_steps, short_training.steps_to_next_evaluation(steps[-1], most)))
        return steps

    assert sum(steps > 0.75 * most_steps for steps in evaluated(most_steps)) >= 5
    whole, unlimited = (
        [s for s in evaluated(most) if s <= most_steps / 2] for most in (most_steps, math.inf)
    )
    assert whole == unlimited, "they can be paired with those of any other training"


# The learning rate


@pytest.mark.parametrize("factor", [0.25, 1.0, 8.0])
def test_the_factor_scales_what_the_optimizer_does(factor: float, clock: Clock) -> None:
    def moved(made: Trainer, times: float) -> torch.Tensor:
        before = made.model.body.weight.detach().clone()
        training(made, seconds=0.0, learning_rate_factor=times)
        return made.model.body.weight.detach() - before

    for optimizer in (sgd(), lambda parameters: Adam(parameters, lr=1e-3)):
        plain, scaled = (
            moved(trainer(Watched(linear(), clock), rows(400), optimizer=optimizer), times)
            for times in (1.0, factor)
        )
        assert plain.abs().min() > 0
        assert torch.allclose(scaled, factor * plain, rtol=1e-3)


def test_factors_do_not_add_up_over_trainings(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(400))
    start = Snapshot(made)
    first = training(made, start, learning_rate_factor=3.0)
    assert training(made, start, learning_rate_factor=3.0) == first
    assert made.optimizers[0].param_groups[0]["lr"] == pytest.approx(3 * 0.02)
    assert first.learning_rate_factor == 3.0
    assert training(made, start, learning_rate_factor=1.0) != first


# The same start and the same samples


@pytest.mark.parametrize("optimizer", [sgd(momentum=0.9), lambda parameters: Adam(parameters, lr=0.01)])
def test_the_same_seed_gives_the_same_training_twice(optimizer: Any, clock: Clock) -> None:
    made = trainer(Watched(with_dropout(), clock), rows(400), optimizer=optimizer)
    start = Snapshot(made)
    first = training(made, start, seconds=60.0, seed=3)
    training(made, start, batch_size=32, learning_rate_factor=5.0, seed=4)
    assert training(made, start, seconds=60.0, seed=3) == first
    assert training(made, start, seconds=60.0, seed=4) != first


class Augmenting(Dataset[Any]):
    """Samples with random numbers in them."""

    def __init__(self) -> None:
        self.inputs, self.targets = rows(300)

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + torch.randn(())
        return self.inputs[index] + torch.tensor([0.0, 1, 1, 1, 1]) * noise, self.targets[index]


def test_a_data_set_that_draws_random_numbers_draws_the_same_again(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), Augmenting())
    start = Snapshot(made)
    first = training(made, start)
    random.random()
    assert training(made, start) == first


def test_a_training_that_diverged_leaves_nothing_behind(clock: Clock) -> None:
    made = trainer(Watched(with_dropout(), clock), rows(400))
    start = Snapshot(made)
    good = training(made, start)
    assert training(made, start, learning_rate_factor=1e30).outcome is Outcome.DIVERGED
    assert training(made, start) == good


def test_every_size_sees_the_samples_in_the_same_order(clock: Clock) -> None:
    model = Watched(linear(), clock)
    made = trainer(model, rows(300), rows(40, VALIDATION))
    start = Snapshot(made)
    orders = []
    for size in (4, 32, 300):
        model.trained_on.clear()
        training(made, start, batch_size=size, seconds=200.0)
        orders.append(list(model.trained_on))
    shortest = min(map(len, orders))
    assert shortest >= 100
    assert orders[0][:shortest] == orders[1][:shortest] == orders[2][:shortest]
    model.trained_on.clear()
    training(made, start, batch_size=4, seconds=200.0, seed=1)
    assert model.trained_on[:shortest] != orders[0][:shortest]


def test_every_epoch_shows_every_sample_once_in_an_order_of_its_own(clock: Clock) -> None:
    model = Watched(linear(), clock)
    made = trainer(model, rows(100), rows(40, VALIDATION))
    training(made, batch_size=30, seconds=60.0)
    first, second, third = (model.trained_on[start : start + 100] for start in (0, 100, 200))
    assert sorted(first) == sorted(second) == sorted(third) == list(range(100))
    assert first != second != third != first


# What is held out


class Recording(Dataset[Any]):
    """Notes which of its samples are read."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.inputs, self.targets = rows(count, first)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.inputs[index], self.targets[index]


def test_validation_data_is_what_it_is_judged_on(clock: Clock) -> None:
    model = Watched(linear(), clock)
    dataset, validation = Recording(300), Recording(50, VALIDATION)
    made = trainer(model, dataset, validation)
    found = short_training.run(made, Snapshot(made), command(batch_size=30, seconds=200.0))
    assert found.held_out == "50 validation samples"
    assert set(model.judged_on) <= set(range(VALIDATION, VALIDATION + 50))
    assert len(set(model.judged_on)) == 48
    assert set(model.trained_on) == set(range(300))
    assert set(validation.read) <= set(range(50))


def test_else_what_is_held_out_is_never_trained_on(clock: Clock) -> None:
    model = Watched(linear(), clock)
    made = trainer(model, Recording(300))
    start = Snapshot(made)
    for size in (10, 90):
        training(made, start, batch_size=size, seconds=200.0)
    judged, trained_on = set(model.judged_on), set(model.trained_on)
    assert len(judged) == 24
    assert len(trained_on) == 270
    assert not judged & trained_on


def test_validation_data_too_small_is_not_used(clock: Clock) -> None:
    model = Watched(linear(), clock)
    made = trainer(model, rows(300), rows(8, VALIDATION))
    found = short_training.run(made, Snapshot(made), command())
    assert found.held_out == "30 samples held out of the training set"
    assert max(model.judged_on) < VALIDATION


class Stream(IterableDataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return zip(*rows(self.count), strict=True)


def test_validation_data_that_is_a_stream_is_not_used(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(300), Stream(100))
    found = short_training.run(made, Snapshot(made), command())
    assert found.training is not None
    assert found.training.outcome is Outcome.OK
    assert found.held_out == "30 samples held out of the training set"


# Trainings that end badly


def test_a_huge_learning_rate_diverges(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(400))
    found = training(made, learning_rate_factor=1e3, seconds=1000.0)
    assert found.outcome is Outcome.DIVERGED
    assert "infinite or not a number" in found.detail
    assert 4 < found.steps < 1000
    assert len(found.evaluations) >= 1
    assert all(math.isfinite(loss) for one in found.evaluations for loss in one.losses)


def test_a_loss_that_is_no_number_on_what_it_trains_on_ends_it_at_once(clock: Clock) -> None:
    """Here the 7th step's; what is held out would show it after the 8th only."""

    def training_step(model: nn.Module, batch: Any) -> torch.Tensor:
        clock.now += 1
        loss = (model(batch[0][:, 1:]) - batch[1]).square().mean()
        return loss * math.nan if model.training and made.optimizer_steps == 6 else loss

    made = trainer(linear(), rows(400), training_step=training_step)
    found = training(made)
    assert found.outcome is Outcome.DIVERGED
    assert "held out" not in found.detail
    assert found.steps == 7
    assert steps_of(found) == [0, 4, 5, 6]


def test_a_loss_that_is_no_number_on_what_is_held_out_alone_diverged(clock: Clock) -> None:
    made = trainer(Watched(NoNumberInEvaluation(), clock), rows(400))
    found = training(made)
    assert found.outcome is Outcome.DIVERGED
    assert "held out" in found.detail
    assert (found.steps, found.evaluations) == (0, ())


@pytest.mark.parametrize(
    ("error", "outcome", "detail"),
    [
        (RuntimeError("boom\nand more"), Outcome.FAILED, "RuntimeError: boom"),
        (SystemExit(3), Outcome.FAILED, "SystemExit: 3"),
        (KeyboardInterrupt(), Outcome.FAILED, "KeyboardInterrupt"),
        (torch.OutOfMemoryError("no memory"), Outcome.OUT_OF_MEMORY, "OutOfMemoryError: no memory"),
    ],
)
def test_a_model_that_raises_ends_it_with_its_message(
    error: BaseException, outcome: Outcome, detail: str, clock: Clock
) -> None:
    made = trainer(Watched(Failing(7, error), clock), rows(400))
    found = training(made, seconds=1000.0)
    assert found.outcome is outcome
    assert found.detail == detail
    assert found.steps == 7
    assert steps_of(found) == [0, 4, 5, 6]


def test_a_model_that_raises_at_once_has_made_no_step(clock: Clock) -> None:
    made = trainer(Watched(Failing(0, ValueError("no")), clock), rows(400))
    found = training(made)
    assert (found.outcome, found.steps, steps_of(found)) == (Outcome.FAILED, 0, [0])
    assert found.detail == "ValueError: no"


class Damaged(Recording):
    """One of its samples can't be read."""

    def __getitem__(self, index: int) -> Any:
        if index == 17:
            raise OSError("disk on fire")
        return super().__getitem__(index)


def test_a_sample_that_can_not_be_read_ends_it_in_words(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), Damaged(60), rows(40, VALIDATION))
    found = training(made, seconds=100.0)
    assert found.outcome is Outcome.FAILED
    assert found.detail == "the data set can't give sample 17"


# No training at all


def none_because(made: Trainer, **given: Any) -> str:
    """Why there is no training; it may not have made a step for that."""
    found = short_training.run(made, Snapshot(made), command(**given))
    assert found.training is None
    assert made.optimizer_steps == 0
    return found.held_out


def test_a_stream_can_not_be_trained_on_twice() -> None:
    assert none_because(trainer(linear(), Stream(100))) == (
        "the data set is a stream, which gives its samples once"
    )


def test_a_loop_of_the_users_own_is_told_in_words() -> None:
    made = trainer(linear(), rows(400), step=lambda model, optimizer, batch: None)
    assert none_because(made) == "your `step` keeps its gradients to itself"


def test_a_tiny_data_set_is_told() -> None:
    assert "too small to hold samples out" in none_because(trainer(linear(), rows(100)))


def test_a_batch_larger_than_what_is_left_to_train_on_is_told(clock: Clock) -> None:
    made = trainer(Watched(linear(), clock), rows(200))
    assert "too small to hold samples out" in none_because(made, batch_size=181)
    assert training(made, batch_size=180, seconds=0.0).steps == 1


class InGroups(nn.Module):
    """Takes whole groups of rows, at least two of them."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.body = linear()
        self.group = group
        self.judged: list[int] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        assert len(rows) % self.group == 0
        assert len(rows) >= 2 * self.group
        if not self.training:
            self.judged.append(len(rows))
        found: torch.Tensor = self.body(rows[:, 1:])
        return found


@pytest.mark.parametrize(("samples", "held_out"), [(400, 40), (200, 20)])
def test_held_out_parts_hold_whole_groups(samples: int, held_out: int) -> None:
    """pytorch-metric-learning 259: samples come in triples."""
    model = InGroups(6)
    asked = {"seconds": 0.02, "part_size": 24, "smallest_part": 12, "multiple_of": 6}
    found = training(trainer(model, rows(samples)), batch_size=12, **asked)
    assert found.outcome is Outcome.OK, found.detail
    assert set(model.judged) == {min(24, held_out // 6 * 6)}


def test_fewer_held_out_than_a_batch_has_to_have_are_refused_in_words() -> None:
    made = trainer(linear(), rows(200))
    asked = command(batch_size=24, part_size=24, smallest_part=24, multiple_of=6)
    found = short_training.run(made, Snapshot(made), asked)
    assert found.training is None
    assert found.held_out == "fewer samples are held out than a batch has to have"


# Losses that are not there


def test_a_batch_without_a_loss_is_left_out_as_lightning_does(clock: Clock) -> None:
    calls = []

    def training_step(model: nn.Module, batch: Any) -> torch.Tensor | None:
        calls.append(model.training)
        if model.training and sum(calls) % 3 == 0:
            return None
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    made = trainer(Watched(linear(), clock), rows(400), training_step=training_step)
    found = training(made, seconds=60.5)
    assert found.outcome is Outcome.OK
    assert made.optimizer_steps == pytest.approx(found.steps * 2 / 3, abs=1)


class LossesInTrainingOnly(nn.Module):
    """As detectors: without targets in evaluation mode there is no loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = with_dropout()

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        output = self.body(inputs[:, 1:])
        return {"loss": nn.functional.mse_loss(output, targets)} if self.training else [output]


def test_a_model_without_a_loss_in_evaluation_mode_is_judged_in_training_mode() -> None:
    made = trainer(
        LossesInTrainingOnly(),
        rows(400),
        training_step=lambda model, batch: model(*batch)["loss"],
    )
    start = Snapshot(made)
    first, second = (short_training.run(made, start, command(seconds=60.0, most_samples=80)) for _ in "ab")
    assert first.training is not None
    assert first.training.outcome is Outcome.OK
    assert first.held_out == "40 samples held out of the training set, in training mode"
    # Dropout and batch statistics of an evaluation change nothing in the training.
    assert second.training is not None
    assert [one.losses for one in first.training.evaluations] == [
        one.losses for one in second.training.evaluations
    ]

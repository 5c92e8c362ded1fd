"""The sizes and the time that the measurement of the kind of loss asks for."""

from __future__ import annotations

import pytest

from autobatch.decision.recommender import recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.measurement.budget import Budget
from autobatch.measurement.climb import Climb
from autobatch.measurement.loss_kind import dependent_loss, measure_loss_kind
from autobatch.records.check import LossKind
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome, Trial
from tests.simulated import Machine, SimulatedEngine


def measured(largest: int, limits: Limits, kind: LossKind = LossKind.SUM) -> tuple[LossKind, SimulatedEngine]:
    engine = SimulatedEngine(Machine(loss_kind=kind))
    trials = TrialSet((Trial(batch_size=largest, outcome=Outcome.OK),))
    return measure_loss_kind(engine, trials, limits, Budget.of(limits, engine)), engine


@pytest.mark.parametrize("kind", LossKind)
def test_the_kind_is_the_engines(kind: LossKind) -> None:
    assert measured(256, Limits(), kind=kind)[0] is kind


@pytest.mark.parametrize(
    ("largest", "limits", "half_size"),
    [
        (256, Limits(), 16),
        (20, Limits(), 10),
        (2, Limits(), 1),
        (256, Limits(multiple_of=3), 18),
        (30, Limits(multiple_of=6), 12),
        (256, Limits(min_batch=40, multiple_of=8), 40),
        (84, Limits(min_batch=41, multiple_of=2), 42),
    ],
)
def test_both_sizes_are_allowed_and_fit(largest: int, limits: Limits, half_size: int) -> None:
    _, engine = measured(largest, limits)
    (command,) = engine.loss_kind_commands
    assert command.half_size == half_size
    assert 2 * half_size <= command.most_samples == largest
    assert command.seconds == pytest.approx(0.1 * limits.budget_seconds)


@pytest.mark.parametrize(("largest", "limits"), [(1, Limits()), (64, Limits(min_batch=40))])
def test_without_two_sizes_the_kind_is_unknown(largest: int, limits: Limits) -> None:
    kind, engine = measured(largest, limits)
    assert kind is LossKind.UNKNOWN
    assert engine.loss_kind_commands == []


def test_no_size_above_the_ceiling_is_tried() -> None:
    engine = SimulatedEngine(Machine())
    trials = tuple(Trial(batch_size=size, outcome=Outcome.OK) for size in (8, 16, 32))
    measure_loss_kind(engine, TrialSet(trials, ceiling=20), Limits(), Budget.of(Limits(), engine))
    (command,) = engine.loss_kind_commands
    assert (command.half_size, command.most_samples) == (8, 16)


@pytest.mark.parametrize(
    ("kind", "global_batch", "is_kept"),
    [
        (LossKind.BATCH_DEPENDENT, 128, True),
        (LossKind.MEAN, 128, False),
        (LossKind.BATCH_DEPENDENT, None, False),
    ],
)
def test_accumulation_asks_for_the_kind_without_a_check_too(
    kind: LossKind, global_batch: int | None, is_kept: bool
) -> None:
    engine = SimulatedEngine(Machine(loss_kind=kind))
    limits = Limits(global_batch=global_batch, max_batch=32, check=False)
    curve = Climb(engine, limits).run()
    check = dependent_loss(engine, curve, limits, Budget.of(limits, engine))
    assert (check is not None) is is_kept
    assert bool(engine.loss_kind_commands) is (global_batch is not None)
    answer = recommend(curve, check, limits)
    assert (answer.accumulation_steps == 1) is (is_kept or global_batch is None)

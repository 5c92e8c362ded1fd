"""Timing rounds on a simulated device: pairs until they are decided, and windows of several sizes."""

from __future__ import annotations

from collections import Counter

import pytest

from autobatch.decision.constants import MAX_REPEATS, MIN_REPEATS
from autobatch.engines import messages
from autobatch.measurement.budget import Budget
from autobatch.measurement.rounds import Rounds
from autobatch.records.limits import Limits
from autobatch.records.trial import Gain, Outcome, Trial
from tests.simulated import Machine, SimulatedEngine

pytestmark = pytest.mark.usefixtures("quick_collections")


def rounds_on(machine: Machine, seconds: float = 1e6) -> tuple[Rounds, SimulatedEngine, Budget]:
    engine = SimulatedEngine(machine)
    budget = Budget.of(Limits(budget_seconds=seconds), engine)
    return Rounds(engine, budget), engine, budget


def timed(size: int, seconds: float) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OK, step_seconds=(seconds,) * 3)


def test_a_clear_gain_takes_the_fewest_rounds_and_alternates() -> None:
    rounds, engine, _ = rounds_on(Machine(step_seconds=lambda size: 0.01))
    gain = rounds.compare(64, 32)
    assert isinstance(gain, Gain)
    assert (gain.over, gain.decided) == (32, True)
    assert gain.ratio == pytest.approx(2.0)
    assert engine.rounds == [64, 32] * MIN_REPEATS


def test_noise_takes_more_rounds_up_to_the_most() -> None:
    counts = []
    for seed in range(20):
        rounds, engine, _ = rounds_on(Machine(step_seconds=lambda size: size * 1e-3, noise=0.5, seed=seed))
        rounds.compare(64, 32)
        counts.append(engine.rounds.count(64))
    assert max(counts) == MAX_REPEATS
    assert min(counts) >= MIN_REPEATS


def test_the_first_size_is_timed_alone() -> None:
    rounds, engine, _ = rounds_on(Machine())
    assert rounds.compare(8, None) is None
    assert engine.rounds == [8] * MIN_REPEATS
    assert len(rounds.of(8)) == MIN_REPEATS


def test_a_round_that_fails_is_the_result() -> None:
    rounds, _, _ = rounds_on(Machine(crashes={32: 1}))
    failure = rounds.compare(64, 32)
    assert isinstance(failure, messages.Tried)
    assert (failure.batch_size, failure.outcome) == (32, Outcome.CRASHED)


def test_the_end_of_the_budget_ends_the_rounds() -> None:
    rounds, engine, _ = rounds_on(Machine(step_seconds=lambda size: 1.0), seconds=3.0)
    rounds.compare(64, 32)
    assert len(engine.rounds) < 2 * MIN_REPEATS


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1e6, MAX_REPEATS), (9.0, 4), (7.0, MIN_REPEATS), (5.0, 0)]
)
def test_a_window_takes_the_rounds_that_fit(seconds: float, expected: int) -> None:
    rounds, engine, budget = rounds_on(Machine(step_seconds=lambda size: 0.5))
    several = [timed(size, 0.5) for size in (16, 32)]
    stage = Budget(seconds, lambda: engine.busy_seconds)
    assert rounds.time_side_by_side(several, stage) == expected
    assert Counter(engine.rounds) == dict.fromkeys((16, 32), expected) or expected == 0
    assert engine.busy_seconds <= seconds
    assert not budget.is_over

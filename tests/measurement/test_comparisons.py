"""Throughput from rounds: beside the best size so far, and of all that may be the answer in one window."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.decision.constants import MIN_REPEATS
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.trial_set import TrialSet
from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement.attempts import Attempts
from autobatch.measurement.budget import Budget
from autobatch.measurement.comparisons import Comparisons, best_in_rounds, looks_collapsed
from autobatch.measurement.rounds import Rounds
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome, Trial
from tests.builders import trial
from tests.simulated import Machine, SimulatedEngine

pytestmark = pytest.mark.usefixtures("quick_collections")

LIMITS = Limits(budget_seconds=1e6)


def compared(machine: Machine, *sizes: int) -> tuple[Comparisons, TrialSet, SimulatedEngine]:
    """The sizes, tried and compared one after the other."""
    engine = SimulatedEngine(machine)
    engine.open()
    budget = Budget.of(LIMITS, engine)
    attempts = Attempts(engine, lambda text: None)
    comparisons = Comparisons(attempts, Rounds(engine, budget, 600.0), budget)
    trial_set = TrialSet()
    for size in sizes:
        tried = attempts.attempt(size, 60.0, FULL_STEPS, trial_set.largest_passed)
        assert tried is not None
        trial_set = trial_set.extended(comparisons.with_best(tried, trial_set, Memory()))
    return comparisons, trial_set, engine


def test_each_size_is_compared_with_the_best_before_it() -> None:
    _, trial_set, _ = compared(Machine(step_seconds=lambda size: 0.01), 8, 16, 32)
    gains = [trial.gain for trial in trial_set.trials]
    assert gains[0] is None
    assert [(gain.over, gain.ratio) for gain in gains[1:] if gain] == [
        (8, pytest.approx(2.0)),
        (16, pytest.approx(2.0)),
    ]
    best = best_in_rounds(trial_set)
    assert best is not None
    assert best.batch_size == 32


def test_a_best_size_that_dies_in_a_round_fails_after_the_trial() -> None:
    comparisons, trial_set, engine = compared(Machine(step_seconds=lambda size: 0.01), 8)
    engine._crashes_left[8] = 10
    tried = comparisons._attempts.attempt(16, 60.0, FULL_STEPS, 8)
    assert tried is not None
    passed, failed = comparisons.with_best(tried, trial_set, Memory())
    assert (passed.batch_size, passed.ok) == (16, True)
    assert (failed.batch_size, failed.outcome) == (8, Outcome.CRASHED)


def test_sizes_near_the_best_are_timed_in_one_window() -> None:
    slow_below = Machine(step_seconds=lambda size: 0.01 if size < 32 else 0.01 * size / 32)
    comparisons, trial_set, engine = compared(slow_below, 4, 8, 16, 32, 64)
    engine.rounds.clear()
    after = comparisons.side_by_side(trial_set, 64, replace(LIMITS, check=False), None)
    assert set(engine.rounds) == {32, 64}
    assert engine.rounds[:2] in ([32, 64], [64, 32])
    for size in (32, 64):
        assert len(after.latest[size].step_seconds) >= MIN_REPEATS
    assert after.latest[4] == trial_set.latest[4]


def test_a_check_needs_the_sizes_from_a_quarter_of_the_current_one_on() -> None:
    comparisons, trial_set, engine = compared(Machine(step_seconds=lambda size: 0.01), 2, 8, 32, 128)
    engine.rounds.clear()
    comparisons.side_by_side(trial_set, 128, LIMITS, 32)
    assert set(engine.rounds) == {8, 32, 128}


@pytest.mark.parametrize(("rough", "collapsed"), [(0.002, False), (0.2, True)])
def test_a_rough_throughput_far_below_the_best_looks_collapsed(rough: float, collapsed: bool) -> None:
    best: Trial = trial(32, 0.001)
    assert looks_collapsed(trial(64, rough, rounds=1), TrialSet((best,))) is collapsed

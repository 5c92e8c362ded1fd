"""Timing rounds on a simulated device: pairs as long as they pay, and windows of several sizes."""

from __future__ import annotations

from collections import Counter
from math import log2

import pytest

from autobatch.decision.constants import MAX_REPEATS, MIN_REPEATS
from autobatch.engines import messages
from autobatch.measurement.budget import Budget
from autobatch.measurement.rounds import Rounds
from autobatch.records.limits import Limits
from autobatch.records.trial import Gain, Outcome
from tests.simulated import Machine, SimulatedEngine

pytestmark = pytest.mark.usefixtures("quick_collections")


def rounds_on(
    machine: Machine, seconds: float = 1e6, horizon_seconds: float = 600.0
) -> tuple[Rounds, SimulatedEngine, Budget]:
    engine = SimulatedEngine(machine)
    budget = Budget.of(Limits(budget_seconds=seconds), engine)
    return Rounds(engine, budget, horizon_seconds), engine, budget


def test_a_clear_gain_takes_a_single_pair() -> None:
    rounds, engine, _ = rounds_on(Machine(step_seconds=lambda size: 0.01))
    gain = rounds.compare(64, 32)
    assert isinstance(gain, Gain)
    assert (gain.over, gain.rounds, gain.decided) == (32, 1, False)
    assert gain.ratio == pytest.approx(2.0)
    assert 1.5 < gain.low < 2.0 < gain.high < 2.5
    assert engine.rounds == [64, 32]


def test_a_gain_near_the_threshold_takes_more_pairs_and_for_a_longer_training_still_more() -> None:
    counts = []
    for horizon_seconds in (1.0, 20.0, 1e9):
        rounds, engine, _ = rounds_on(
            Machine(step_seconds=lambda size: 0.01 * size / 1.05 ** log2(size)),
            horizon_seconds=horizon_seconds,
        )
        rounds.compare(2, 1)
        assert engine.rounds == [2, 1] * (len(engine.rounds) // 2)
        counts.append(engine.rounds.count(2))
    assert counts[0] == 1
    assert 1 < counts[1] <= counts[2] == MAX_REPEATS


def test_noise_takes_more_rounds_up_to_the_most() -> None:
    counts = []
    for seed in range(20):
        machine = Machine(step_seconds=lambda size: size * 1e-3, noise=0.5, seed=seed)
        rounds, engine, _ = rounds_on(machine, horizon_seconds=1e4)
        rounds.compare(64, 32)
        counts.append(engine.rounds.count(64))
    assert max(counts) == MAX_REPEATS
    assert min(counts) < MAX_REPEATS


def test_a_throughput_that_looks_collapsed_takes_enough_rounds_to_be_sure() -> None:
    rounds, _, _ = rounds_on(Machine(step_seconds=lambda size: 0.01 if size <= 32 else 1.0))
    gain = rounds.compare(64, 32)
    assert isinstance(gain, Gain)
    assert (gain.rounds, gain.decided) == (MIN_REPEATS, True)


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
    ("seconds", "expected"), [(1e6, MAX_REPEATS), (10.0, 4), (7.0, MIN_REPEATS), (5.0, 0)]
)
def test_a_window_takes_the_rounds_that_fit(seconds: float, expected: int) -> None:
    # They differ by the 5% from which on a size counts as faster.
    machine = Machine(step_seconds=lambda size: 0.4 if size == 16 else 0.8 / 1.05)
    rounds, engine, budget = rounds_on(machine, horizon_seconds=1e9)
    rounds.compare(32, 16)
    begin = engine.busy_seconds
    engine.rounds.clear()
    stage = Budget(seconds, lambda: engine.busy_seconds, start_seconds=begin)
    assert rounds.time_side_by_side((16, 32), 16, stage, 1e6) == expected
    assert Counter(engine.rounds) == dict.fromkeys((16, 32), expected) or expected == 0
    assert engine.busy_seconds - begin <= seconds
    assert not budget.is_over


def test_a_window_ends_where_no_round_can_change_a_choice() -> None:
    rounds, engine, budget = rounds_on(Machine(step_seconds=lambda size: 0.01))
    for size in (16, 32):
        rounds.compare(size, 8)
    engine.rounds.clear()
    assert rounds.time_side_by_side((8, 16, 32), 8, budget, 1e6) == MIN_REPEATS
    assert engine.rounds == [8, 16, 32] * MIN_REPEATS


@pytest.mark.parametrize(("most_seconds", "expected"), [(1.0, MIN_REPEATS), (14.0, 6)])
def test_more_than_the_fewest_rounds_of_a_window_leave_the_time_for_others(
    most_seconds: float, expected: int
) -> None:
    machine = Machine(step_seconds=lambda size: 0.4 if size == 16 else 0.8 / 1.05)
    rounds, _, budget = rounds_on(machine, horizon_seconds=1e9)
    rounds.compare(32, 16)
    assert rounds.time_side_by_side((16, 32), 16, budget.stage(1), most_seconds) == expected

"""The time of a search on a simulated clock: spent, left, and the share of each stage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.constants import SHORTEST_TRIAL_SECONDS
from autobatch.measurement.budget import Budget
from autobatch.records.limits import Limits
from tests.simulated import Machine, SimulatedEngine

LIMITS = Limits(budget_seconds=100.0, trial_timeout_seconds=7.0)


def test_the_engine_s_busy_time_is_the_clock() -> None:
    engine = SimulatedEngine(Machine(step_seconds=lambda size: 1.0))
    budget = Budget.of(LIMITS, engine)
    engine.try_out(8, 60.0, 3)
    assert budget.spent_seconds == engine.busy_seconds >= 3.0
    assert budget.left_seconds == pytest.approx(100.0 - engine.busy_seconds)
    assert not budget.is_over


def test_a_budget_that_is_over_still_lets_a_trial_end() -> None:
    engine = SimulatedEngine(Machine())
    budget = Budget.of(LIMITS, engine)
    engine.busy_seconds = 130.0
    assert budget.is_over
    assert budget.left_seconds == -30.0
    assert budget.trial_seconds == SHORTEST_TRIAL_SECONDS
    assert budget.overrun_seconds == 7.0


@given(
    st.floats(1.0, 1e4),
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 500.0)), max_size=6),
)
def test_no_stage_ends_after_the_whole(total_seconds: float, stages: list[tuple[float, float]]) -> None:
    clock_seconds = 0.0
    whole = Budget(total_seconds, lambda: clock_seconds)
    for share, work_seconds in stages:
        stage = whole.stage(share)
        assert stage.spent_seconds == 0.0
        assert stage.total_seconds <= share * total_seconds
        assert clock_seconds + stage.left_seconds <= total_seconds * (1 + 1e-9) or whole.is_over
        clock_seconds += work_seconds
        assert stage.left_seconds <= whole.left_seconds + 1e-6


def test_a_measurement_that_the_answer_needs_may_end_a_tenth_later() -> None:
    clock_seconds = 95.0
    budget = Budget(100.0, lambda: clock_seconds)
    assert budget.allows(15.0)
    assert not budget.allows(15.1)
    clock_seconds = 111.0
    assert not budget.allows(0.0)


def test_a_reserve_is_taken_from_the_end() -> None:
    clock_seconds = 10.0
    budget = Budget(100.0, lambda: clock_seconds, overrun_seconds=7.0).reserving(30.0)
    assert budget.left_seconds == 60.0
    assert budget.overrun_seconds == 7.0
    clock_seconds = 75.0
    assert budget.is_over

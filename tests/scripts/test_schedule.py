"""The wall time of a command's measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.scripts.messages import Observation
from autobatch.scripts.schedule import Schedule
from autobatch.scripts.session import Session
from tests.scripts.observations import OBSERVED, observed


@dataclass
class Started:
    """A session whose command has started in so many seconds."""

    start_seconds: float
    in_place: bool = True
    observed: Observation = OBSERVED


def schedule(started: Started, budget_seconds: float = 60.0) -> Schedule:
    return Schedule(cast("Session", started), budget_seconds)


def test_a_quick_start_is_kept_for_the_confirmation():
    quick = schedule(Started(start_seconds=4.0))
    assert quick.confirms
    assert quick.end_seconds == pytest.approx(60.0 - quick.another_start_seconds)
    assert quick.another_start_seconds > 4.0


def test_a_slow_start_is_not_made_again():
    slow = schedule(Started(start_seconds=25.0))
    assert not slow.confirms
    assert slow.end_seconds == 60.0


def test_sizes_of_fresh_processes_need_no_other():
    restarted = Started(start_seconds=4.0, in_place=False, observed=observed(loader=None))
    assert schedule(restarted).end_seconds == 60.0


@given(st.floats(0.1, 500.0), st.floats(1.0, 600.0), st.floats(0.0, 1000.0))
def test_the_end_is_within_the_budget(start: float, budget: float, elapsed: float):
    timed = schedule(Started(start_seconds=start), budget)
    timed.begin -= elapsed
    assert timed.end_seconds <= budget
    # A measurement that has begun gets a little time, whatever is left.
    assert timed.left_seconds > 0
    assert timed.evaluation_seconds > 0

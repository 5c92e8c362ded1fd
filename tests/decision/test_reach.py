"""Closing in on the ceiling, with and without a forecast, and the size to confirm there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.constants import MEMORY_MARGIN
from autobatch.decision.reach import Stop, Try, size_to_confirm
from autobatch.decision.search import next_move
from autobatch.decision.size_bounds import size_cap
from autobatch.records.limits import Limits
from autobatch.records.trial import LimitedBy, Outcome, Trial
from tests.decision.test_search import (
    IN_PROPORTION,
    MEMORY,
    World,
    failed,
    limits_of_searches,
    moves,
    passed,
    searched,
    worlds,
)


@given(worlds, limits_of_searches)
def test_on_a_heap_the_size_to_confirm_leaves_the_margin(world: World, limits: Limits) -> None:
    world = replace(world, heap=True)
    trial_set, stop, memory = searched(world, limits)
    if trial_set.largest_passed is None or stop.limited_by is not LimitedBy.MEMORY:
        return
    size = size_to_confirm(trial_set, limits, None, memory)
    assert size is not None
    room_bytes = (1 - MEMORY_MARGIN) * world.limit_bytes
    needed_bytes = world.fixed_bytes + size * world.sample_bytes
    # Where even the smallest size takes more, the largest that passed has to be confirmed without a margin.
    least_bytes = world.fixed_bytes + limits.smallest * world.sample_bytes
    assert needed_bytes <= room_bytes or (least_bytes > room_bytes and size == trial_set.largest_passed)
    step = limits.multiple_of
    fitting = (room_bytes - world.fixed_bytes) / world.sample_bytes
    assert size >= min((1 - 2 * MEMORY_MARGIN) * fitting, size_cap(limits, None)[0]) - step


@given(worlds, st.integers(2, 2000))
def test_a_size_that_fails_to_be_confirmed_leads_to_a_smaller_one(world: World, bound: int) -> None:
    """Fresh processes take more than those of the climb, so that all sizes from `bound` on fail."""
    world = replace(world, heap=True)
    trial_set, stop, memory = searched(world)
    confirmed = None
    while trial_set.largest_passed is not None and stop.limited_by is LimitedBy.MEMORY:
        size = size_to_confirm(trial_set, MEMORY, None, memory)
        assert size is not None
        assert size not in {trial.batch_size for trial in trial_set.trials if not trial.ok}
        if size < bound:
            confirmed = size
            break
        trial_set = trial_set.extended([Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY)])
        while isinstance(move := next_move(trial_set, MEMORY, None, memory), Try):
            trial_set = trial_set.extended([world.tried(move.batch_size)])
        assert isinstance(move, Stop)
        stop = move
    assert confirmed is not None or world.ceiling == 0 or stop.limited_by is not LimitedBy.MEMORY


@pytest.mark.parametrize(
    ("trials", "following"),
    [
        # Only the ceiling counts, so the search jumps to the forecast.
        ([passed(1, 1)], 1000),
        # The forecast was right: the next size shows that nothing larger fits.
        ([passed(1, 1), passed(1000, 1000)], 1001),
        # Too low: the steps above it grow.
        ([passed(1, 1), passed(990, 1000), passed(1000, 1010)], 1020),
        # Too high: a tenth of the gap back, then two tenths of what is left.
        ([passed(100, 100), failed(1000)], 910),
        ([passed(100, 100), failed(1000), failed(910)], 748),
        # Without a forecast the gap is halved.
        ([passed(100), failed(200)], 150),
    ],
)
def test_with_a_forecast(trials: list[Trial], following: int) -> None:
    assert moves(trials, IN_PROPORTION) == Try(following, timed=False)


def test_a_failure_next_to_the_largest_success_ends_the_search() -> None:
    assert moves([passed(100, 100), failed(101)], IN_PROPORTION) == Stop(LimitedBy.MEMORY)
    hung = failed(200, Outcome.TIMEOUT)
    assert moves([passed(100, 100), hung], IN_PROPORTION) == Stop(LimitedBy.BUDGET)


def test_a_heap_is_searched_to_its_margin_only() -> None:
    heap = replace(IN_PROPORTION, heap=True)
    assert moves([passed(100, 100)], heap) == Try(200, timed=False)
    assert moves([passed(512, 512)], heap) == Try(900, timed=False)
    near = moves([passed(500, 500), passed(850, 850)], heap)
    assert isinstance(near, Stop)
    assert near.limited_by is LimitedBy.MEMORY
    assert moves([passed(500, 500), failed(700)], heap) == Try(630, timed=False)
    assert moves([passed(650, 650), failed(700)], heap) == Stop(LimitedBy.MEMORY)

"""The sizes that a search may try, and those beside its climb."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.size_bounds import extra_sizes, largest_divisor, size_beside_floor, smaller_sizes
from autobatch.decision.trial_set import TrialSet
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import Outcome
from tests.decision.test_search import failed, passed


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 2, 8]))
def test_the_largest_divisor_is_one(global_batch: int, at_most: int, multiple_of: int) -> None:
    limits = Limits(multiple_of=multiple_of)
    sizes = range(multiple_of, min(at_most, global_batch) + 1, multiple_of)
    divisors = [size for size in sizes if global_batch % size == 0]
    assert largest_divisor(global_batch, at_most, limits) == max(divisors, default=None)


def test_the_current_size_and_a_divisor_are_measured_too() -> None:
    tried = TrialSet((passed(64, 64), passed(96, 96)))
    limits = Limits(global_batch=96)
    assert extra_sizes(tried, limits, 50, 64) == (48, 50)
    assert extra_sizes(tried, limits, 64, 64) == (48,)
    assert extra_sizes(tried, limits, 100, 96) == ()


def test_the_smaller_sizes_end_at_the_floor() -> None:
    climbed = (passed(50), passed(100))
    assert smaller_sizes(TrialSet(climbed), Limits()) == (32, 16, 8, 4, 2, 1)
    assert smaller_sizes(TrialSet(climbed), Limits(min_batch=6)) == (48, 24, 12, 6)
    floor = failed(4, Outcome.FAILED)
    assert smaller_sizes(TrialSet((*climbed, floor)), Limits()) == (32, 16, 8)
    assert smaller_sizes(TrialSet((passed(1), passed(2))), Limits()) == ()
    assert smaller_sizes(TrialSet(climbed), Limits(objective=Objective.MEMORY)) == ()


def test_a_divisor_tells_a_floor_from_sizes_that_are_no_multiple() -> None:
    climbed = TrialSet((passed(12), passed(24), passed(48)))
    assert size_beside_floor(climbed, 8, Limits()) == 6
    assert size_beside_floor(climbed, 8, Limits(min_batch=8)) is None
    # Powers of two divide larger ones, so they tell nothing.
    assert size_beside_floor(TrialSet((passed(32), passed(64))), 16, Limits()) is None

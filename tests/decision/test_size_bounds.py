"""The sizes that a search may try, and those beside its climb."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.size_bounds import extra_sizes, largest_divisor, sizes_beyond_errors, smaller_sizes
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


def test_a_multiple_tells_a_limit_from_sizes_that_are_none() -> None:
    def beyond(*errors: int, sizes: tuple[int, ...] = (12, 24, 48), **limits: int) -> tuple[int, ...]:
        failures = (failed(size, Outcome.FAILED) for size in errors)
        return sizes_beyond_errors(TrialSet((*map(passed, sizes), *failures)), Limits(**limits), 100)

    assert beyond(8) == (6,)
    assert beyond(8, min_batch=8) == ()
    assert beyond(50, 49) == (60,)
    assert beyond(50, 49, max_batch=59) == ()
    assert beyond(96, 50, 49) == ()
    assert beyond() == ()
    # Powers of two divide larger ones, so they tell nothing.
    assert beyond(16, sizes=(32, 64)) == ()

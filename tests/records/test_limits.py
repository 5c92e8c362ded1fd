"""Limits of a search: the sizes that may be tried, and values that can't be meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.scaling import limits_of_a_rank
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits

SMALL = st.integers(1, 24)


@given(SMALL, SMALL, SMALL, st.none() | st.integers(600, 5000), st.integers(1, 10_000))
def test_the_nearest_size_is_permitted_and_no_permitted_size_is_nearer(
    min_batch: int, multiple_of: int, group: int, max_batch: int | None, size: int
) -> None:
    limits = Limits(min_batch=min_batch, multiple_of=multiple_of, group=group, max_batch=max_batch)
    nearest = limits.nearest(size)
    assert limits.permits(nearest)
    assert nearest % multiple_of == nearest % group == 0
    between = range(nearest + 1, size + 1) if nearest <= size else range(size, nearest)
    assert not any(map(limits.permits, between))


@given(SMALL, st.integers(1, 8), SMALL)
def test_ranks_share_a_group(group: int, ranks: int, multiple_of: int) -> None:
    """huggingface/trl 2858, 3061: the global batch size must hold whole groups, not that of one rank.

    huggingface/open-r1 249, 236: the same with 7 or 3 GPUs.
    """
    limits = limits_of_a_rank(Limits(group=group, multiple_of=multiple_of), ranks)
    sizes = [size for size in range(1, 500) if limits.permits(size)]
    assert sizes == [size for size in range(1, 500) if size % multiple_of == 0 and size * ranks % group == 0]


def test_a_global_batch_holds_whole_groups_whatever_the_size_of_a_rank() -> None:
    limits = Limits(group=8, global_batch=96)
    assert limits.unit == 1
    assert limits_of_a_rank(limits, 4) == Limits(global_batch=24)
    with pytest.raises(UsageError, match="`global_batch` 100 is no multiple of the group of 8"):
        Limits(group=8, global_batch=100)


def test_a_size_of_one_rank_may_be_smaller_than_a_group() -> None:
    limits = limits_of_a_rank(Limits(group=8, max_batch=4), 4)
    assert [size for size in range(1, 9) if limits.permits(size)] == [2, 4]


@pytest.mark.parametrize(
    "limits", [{"group": 0}, {"min_batch": 9, "max_batch": 8}, {"multiple_of": 9, "max_batch": 8}]
)
def test_limits_that_leave_no_size_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError) as caught:
        Limits(**limits)
    assert caught.value.code == "bad_limit"

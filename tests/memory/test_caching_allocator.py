"""The rules of torch's caching allocator for CUDA: cases worked out by hand, and properties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.memory.caching_allocator import MIB, CachingAllocator, NoRoomError, segment_size

sizes = st.one_of(st.integers(1, 4096), st.integers(1, 3 * MIB), st.integers(1, 64 * MIB))
# Each step frees a used block, or allocates.
steps = st.lists(st.tuples(sizes, st.integers(0, 3)), min_size=1, max_size=60)


def run(
    requests: Sequence[tuple[int, int]], capacity_bytes: int | None = None
) -> tuple[CachingAllocator, set[int]]:
    """An allocator after these steps, and the storages in use."""
    allocator, used = CachingAllocator(capacity_bytes), set[int]()
    for number, (size_bytes, choice) in enumerate(requests):
        if used and choice == 0:
            freed = sorted(used)[size_bytes % len(used)]
            used.remove(freed)
            allocator.free(freed)
            continue
        allocator.allocate(number, size_bytes)
        used.add(number)
        assert allocator.allocated_bytes <= allocator.reserved_bytes
    return allocator, used


@given(steps)
def test_reserved_is_at_least_allocated_and_all_comes_back(requests: list[tuple[int, int]]) -> None:
    allocator, used = run(requests)
    assert allocator.peak_reserved_bytes >= allocator.peak_allocated_bytes
    for storage in used:
        allocator.free(storage)
    assert allocator.allocated_bytes == 0
    allocator.release_cached()
    assert allocator.reserved_bytes == 0


@given(st.lists(sizes, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_allocated_bytes_of_small_requests_do_not_depend_on_their_order(
    requests: list[int], random: object
) -> None:
    """Each request counts as rounded; a large block may keep up to 1 MiB more where no rest is split off."""
    total = sum(-(-size // 512) * 512 for size in requests)
    large = sum(size > MIB for size in requests)
    for order in (requests, random.sample(requests, len(requests))):  # type: ignore[attr-defined]
        allocator = CachingAllocator()
        for number, size in enumerate(order):
            allocator.allocate(number, size)
        assert total <= allocator.allocated_bytes <= total + large * MIB
        if not large:
            assert allocator.allocated_bytes == total


@given(steps, sizes)
def test_a_request_that_fits_once_the_cache_is_released_is_met(
    requests: list[tuple[int, int]], size_bytes: int
) -> None:
    _, used = run(requests)
    # The same again on a device that has room for the next request only without the cached segments.
    free, _ = run(requests)
    for storage in used:
        free.free(storage)
    capacity_bytes = max(free.peak_reserved_bytes, segment_size(size_bytes))
    allocator, used = run(requests, capacity_bytes)
    for storage in used:
        allocator.free(storage)
    allocator.allocate(-1, size_bytes)
    assert allocator.reserved_bytes <= capacity_bytes


@pytest.mark.parametrize(
    ("size_bytes", "reserved_bytes"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
        (13 * MIB - 1, 14 * MIB),
    ],
)
def test_the_segment_of_one_request(size_bytes: int, reserved_bytes: int) -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, size_bytes)
    assert allocator.reserved_bytes == reserved_bytes


def test_small_requests_share_a_segment_of_2_mib() -> None:
    allocator = CachingAllocator()
    for number in range(4):
        allocator.allocate(number, MIB // 2 - 100)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (2 * MIB, 2 * MIB)
    allocator.allocate(4, 1)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (2 * MIB + 512, 4 * MIB)


def test_a_request_takes_the_smallest_block_that_holds_it() -> None:
    """Free are 16 MiB, the rest of 20, and 18: a request of 16 leaves the 18 to one of 17."""
    allocator = CachingAllocator()
    allocator.allocate(0, 4 * MIB)
    allocator.allocate(1, 17 * MIB)
    allocator.free(1)
    assert allocator.reserved_bytes == 38 * MIB
    allocator.allocate(2, 16 * MIB)
    assert allocator.reserved_bytes == 38 * MIB
    allocator.allocate(3, 17 * MIB)
    assert allocator.reserved_bytes == 38 * MIB


def test_a_large_rest_is_split_off_only_above_1_mib() -> None:
    """9 of 10 MiB leave exactly 1, which stays with the block; 8 leave 2, which the next request takes."""
    for first, allocated in ((9, 10), (8, 8)):
        allocator = CachingAllocator()
        allocator.allocate(0, 10 * MIB)
        allocator.free(0)
        allocator.allocate(1, first * MIB)
        assert (allocator.allocated_bytes, allocator.reserved_bytes) == (allocated * MIB, 10 * MIB)
        allocator.allocate(2, 2 * MIB)
        assert allocator.reserved_bytes == (30 if first == 9 else 10) * MIB


def test_neighbours_are_joined_when_both_are_free() -> None:
    """Three parts of one segment of 20 MiB, freed out of order, hold 18 MiB again."""
    allocator = CachingAllocator()
    for number in range(3):
        allocator.allocate(number, 6 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    for number in (0, 2, 1):
        allocator.free(number)
    allocator.allocate(3, 19 * MIB)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (20 * MIB, 20 * MIB)


def test_the_cache_goes_back_before_memory_is_out() -> None:
    """30 MiB of 40 are cached in one segment of 30: 36 MiB fit only once it has gone back."""
    allocator = CachingAllocator(40 * MIB)
    allocator.allocate(0, 30 * MIB)
    allocator.free(0)
    allocator.allocate(1, 36 * MIB)
    assert (allocator.reserved_bytes, allocator.peak_reserved_bytes) == (36 * MIB, 36 * MIB)
    with pytest.raises(NoRoomError):
        allocator.allocate(2, 5 * MIB)


def test_a_segment_with_a_block_in_use_stays() -> None:
    allocator = CachingAllocator(40 * MIB)
    allocator.allocate(0, 2 * MIB)
    allocator.allocate(1, 8 * MIB)
    allocator.free(1)
    with pytest.raises(NoRoomError):
        allocator.allocate(2, 22 * MIB)
    allocator.allocate(3, 20 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


def test_nothing_takes_nothing() -> None:
    allocator = CachingAllocator(0)
    allocator.allocate(0, 0)
    allocator.free(0)
    assert allocator.reserved_bytes == 0

"""The memory of a traced step: the largest size that fits, and the parts at the peak."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.memory.caching_allocator import MIB, NoRoomError
from autobatch.memory.storage_log import Birth, Death, Event, Kind, align
from autobatch.planning.capacity import LARGEST, StepMemory

storages = st.lists(
    st.tuples(st.integers(0, 30 * MIB), st.integers(0, MIB), st.integers(0, 5)), min_size=1, max_size=25
)


def log_of(made: list[tuple[int, int, int]], size: int) -> tuple[Event, ...]:
    events: list[Event] = []
    ends: dict[int, list[int]] = {}
    for number, (fixed, sample, outlives) in enumerate(made):
        events += [Death(storage) for storage in ends.pop(number, [])]
        events.append(Birth(number, fixed + sample * size))
        ends.setdefault(number + 1 + outlives, []).append(number)
    return tuple(events)


@given(storages, st.integers(1, 4096))
def test_the_largest_size_fits_and_lies_below_the_ceiling(made: list[tuple[int, int, int]], mib: int) -> None:
    lifetimes = align(log_of(made, 4), 4, log_of(made, 8), 8)
    assert lifetimes is not None
    step, room_bytes = StepMemory(lifetimes), mib * MIB
    size = step.largest(room_bytes)
    assert 0 <= size <= step.ceiling(room_bytes) <= LARGEST
    if size:
        usage = step.usage(size, room_bytes)
        assert usage.allocated_bytes <= usage.reserved_bytes <= room_bytes
        assert usage.parts.activations_bytes <= usage.allocated_bytes
    if 0 < size < step.ceiling(room_bytes):
        with pytest.raises(NoRoomError):
            step.usage(size + 1, room_bytes)


def step_of(*logs: tuple[Event, ...]) -> StepMemory:
    """The step from its logs at sizes 4 and 8."""
    lifetimes = align(logs[0], 4, logs[1], 8)
    assert lifetimes is not None
    return StepMemory(lifetimes)


def test_the_parts_are_those_at_the_peak_alone() -> None:
    def log(size: int) -> tuple[Event, ...]:
        return (
            Birth(0, MIB, Kind.PARAMETER),
            Birth(1, size * MIB),
            Death(1),
            Birth(2, MIB, Kind.GRADIENT),
        )

    parts = step_of(log(4), log(8)).usage(10, workspace_bytes=512).parts
    assert (parts.parameters_bytes, parts.activations_bytes) == (MIB, 10 * MIB)
    assert (parts.gradients_bytes, parts.workspace_bytes) == (0, 512)


@pytest.mark.parametrize(("room_bytes", "largest"), [(19 * MIB, 0), (20 * MIB, LARGEST)])
def test_a_step_without_samples_fits_at_all_sizes_or_none(room_bytes: int, largest: int) -> None:
    log = (Birth(0, 20 * MIB, Kind.PARAMETER),)
    step = step_of(log, log)
    assert step.ceiling(room_bytes) == largest
    assert step.largest(room_bytes) == largest

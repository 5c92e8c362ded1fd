"""Pure: the memory of a traced step at any batch size, and the largest size that fits into a device."""

from __future__ import annotations

from collections.abc import Sequence

from autobatch.decision.memory_forecast import largest_alive, live_bytes
from autobatch.memory.caching_allocator import CachingAllocator, NoRoomError, rounded_bytes
from autobatch.memory.storage_log import Birth, Event, Kind, Lifetime, events_at, lines_of
from autobatch.records.plan import MemoryParts, Usage

# The search ends here, where memory hardly grows with the batch size.
LARGEST = 1 << 24
# An allocator seldom loses more than the rest between its blocks, so sizes above this share come first.
_LIKELY_SHARE = 0.75


class StepMemory:
    """The memory of a step, from the lifetimes of its storages."""

    def __init__(self, lifetimes: Sequence[Lifetime]) -> None:
        self._lifetimes = lifetimes
        self._lines = lines_of(lifetimes, smallest=0.0)

    def ceiling(self, room_bytes: int) -> int:
        """The largest size whose live bytes alone are at most `room_bytes`."""
        size = largest_alive(self._lines, room_bytes)
        if size is None:
            return LARGEST if max(line.fixed_bytes for line in self._lines) <= room_bytes else 0
        return min(size, LARGEST)

    def live_bytes(self, batch_size: int) -> float:
        """The peak of the bytes that are alive at the same time."""
        return live_bytes(self._lines, batch_size)

    def largest(self, room_bytes: int) -> int:
        """The largest size for which the caching allocator finds room; 0 where no size fits."""
        low, high = 0, self.ceiling(room_bytes)
        if high < 1 or self._fits(high, room_bytes):
            return high
        likely = int(_LIKELY_SHARE * high)
        if likely >= 1 and self._fits(likely, room_bytes):
            low = likely
        elif likely >= 1:
            high = likely
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(middle, room_bytes) else (low, middle)
        return low

    def usage(self, batch_size: int, room_bytes: int | None = None, workspace_bytes: int = 0) -> Usage:
        """The memory of a size within `room_bytes`; None stands for unlimited room.

        `workspace_bytes` of libraries are added. Raises NoRoomError.
        """
        events = events_at(self._lifetimes, batch_size)
        allocator = _replay(events, room_bytes)
        parts = _parts_at_peak(events)
        return Usage(
            batch_size=batch_size,
            allocated_bytes=allocator.peak_allocated_bytes + workspace_bytes,
            reserved_bytes=allocator.peak_reserved_bytes + workspace_bytes,
            parts=MemoryParts(
                parameters_bytes=parts[Kind.PARAMETER],
                gradients_bytes=parts[Kind.GRADIENT],
                optimizer_bytes=parts[Kind.OPTIMIZER],
                activations_bytes=parts[Kind.ACTIVATION],
                workspace_bytes=parts[Kind.WORKSPACE] + workspace_bytes,
            ),
        )

    def _fits(self, batch_size: int, room_bytes: int) -> bool:
        try:
            _replay(events_at(self._lifetimes, batch_size), room_bytes)
        except NoRoomError:
            return False
        return True


def _replay(events: Sequence[Event], room_bytes: int | None) -> CachingAllocator:
    """The allocator after a step. Raises NoRoomError."""
    allocator = CachingAllocator(room_bytes)
    for event in events:
        if isinstance(event, Birth):
            allocator.allocate(event.storage, event.size_bytes)
        else:
            allocator.free(event.storage)
    return allocator


def _parts_at_peak(events: Sequence[Event]) -> dict[Kind, int]:
    """Living bytes of each kind at the peak, each storage rounded as the allocator rounds it."""
    alive: dict[int, Birth] = {}
    current = dict.fromkeys(Kind, 0)
    peak, highest = dict(current), -1
    for event in events:
        birth = event if isinstance(event, Birth) else alive.pop(event.storage)
        rounded = rounded_bytes(birth.size_bytes)
        if event is birth:
            alive[birth.storage] = birth
            current[birth.kind] += rounded
            if (total := sum(current.values())) > highest:
                peak, highest = dict(current), total
        else:
            current[birth.kind] -= rounded
    return peak

"""Pure: what a traced step takes at any batch size, and the largest size that fits into a device."""

from __future__ import annotations

from collections.abc import Sequence

from autobatch.decision.memory_forecast import largest_alive, live_bytes
from autobatch.memory.caching_allocator import CachingAllocator, NoRoomError, rounded_bytes
from autobatch.memory.storage_log import Birth, Event, Kind, Lifetime, events_at, lines_of
from autobatch.records.plan import MemoryParts, Usage

# Where memory hardly grows with the batch size, no larger one is looked for.
LARGEST = 1 << 24
# What an allocator loses between blocks is seldom more: sizes above this share of the ceiling come first.
_LIKELY_SHARE = 0.75


class StepMemory:
    """The memory of a step, from the lifetimes of its storages."""

    def __init__(self, lifetimes: Sequence[Lifetime]) -> None:
        self._lifetimes = lifetimes
        self._lines = lines_of(lifetimes, smallest=0.0)

    def ceiling(self, room_bytes: int) -> int:
        """The largest size whose live bytes alone are at most `room_bytes`."""
        found = largest_alive(self._lines, room_bytes)
        if found is None:
            return LARGEST if max(line.fixed_bytes for line in self._lines) <= room_bytes else 0
        return min(found, LARGEST)

    def live_bytes(self, batch_size: int) -> float:
        """The most that is alive at once."""
        return live_bytes(self._lines, batch_size)

    def largest(self, room_bytes: int) -> int:
        """The largest size for which the caching allocator finds room; 0 where there is none."""
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
        """What a size takes within `room_bytes`, or where there is no end of them.

        `workspace_bytes` are added, for what libraries keep. Raises NoRoomError.
        """
        events = events_at(self._lifetimes, batch_size)
        allocator = _replayed(events, room_bytes)
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
            _replayed(events_at(self._lifetimes, batch_size), room_bytes)
        except NoRoomError:
            return False
        return True


def _replayed(events: Sequence[Event], room_bytes: int | None) -> CachingAllocator:
    """The allocator after a step. Raises NoRoomError."""
    allocator = CachingAllocator(room_bytes)
    for event in events:
        if isinstance(event, Birth):
            allocator.allocate(event.storage, event.size_bytes)
        else:
            allocator.free(event.storage)
    return allocator


def _parts_at_peak(events: Sequence[Event]) -> dict[Kind, int]:
    """Bytes alive of each kind when most are, each storage rounded as the allocator rounds it."""
    alive: dict[int, Birth] = {}
    now = dict.fromkeys(Kind, 0)
    peak, highest = dict(now), -1
    for event in events:
        birth = event if isinstance(event, Birth) else alive.pop(event.storage)
        rounded = rounded_bytes(birth.size_bytes)
        if event is birth:
            alive[birth.storage] = birth
            now[birth.kind] += rounded
            if (total := sum(now.values())) > highest:
                peak, highest = dict(now), total
        else:
            now[birth.kind] -= rounded
    return peak

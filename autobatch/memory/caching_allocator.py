"""Pure: the memory that torch's caching allocator for CUDA reserves for a sequence of requests.

Source: c10/cuda/CUDACachingAllocator.cpp (native backend, one stream, default settings). The allocator rounds
a request up to 512 B and gives it the smallest free block that is large enough. It splits the rest off where
that is large enough, and joins both parts again when both are free. Without such a block it takes a segment
from the device: 2 MiB for requests up to 1 MiB, 20 MiB for those below 10 MiB, else the request in steps of
2 MiB. Where the device has no room, it returns the segments without a used block, and tries once more.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

MIB = 1 << 20
_ROUNDING_BYTES = 512
_LARGEST_SMALL = MIB
_SMALL_SEGMENT, _LARGE_SEGMENT = 2 * MIB, 20 * MIB
_WHOLE_SEGMENT_FROM, _SEGMENT_STEP = 10 * MIB, 2 * MIB


class NoRoomError(Exception):
    """The device has no room for a request, even after the allocator returned its cached segments."""


@dataclass(slots=True, eq=False)
class _Block:
    """A part of a segment, linked to its neighbours there."""

    address: int
    size_bytes: int
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None


class CachingAllocator:
    """An allocator over `capacity_bytes` of a device; None stands for an unlimited device."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self._capacity_bytes = capacity_bytes
        # Free blocks of small (True) and of large segments, each list sorted by (size, address).
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._blocks: dict[int, _Block] = {}
        self._used: dict[int, _Block] = {}
        self._next_address = 0
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.reserved_bytes = self.peak_reserved_bytes = 0

    def allocate(self, storage: int, size_bytes: int) -> None:
        """Allocate memory for a storage. Raises NoRoomError."""
        if size_bytes == 0:
            return
        rounded = rounded_bytes(size_bytes)
        block = self._smallest_free(rounded) or self._new_segment(rounded)
        rest = block.size_bytes - rounded
        if rest >= _ROUNDING_BYTES if block.small else rest > _LARGEST_SMALL:
            self._split(block, rounded)
        self._used[storage] = block
        self.allocated_bytes += block.size_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)

    def free(self, storage: int) -> None:
        """Free the block of a storage; it stays cached, joined with its free neighbours."""
        block = self._used.pop(storage, None)
        if block is None:
            return
        self.allocated_bytes -= block.size_bytes
        if block.after is not None and block.after.free:
            self._withdraw(block.after)
            _join(block, self._blocks.pop(block.after.address))
        if block.before is not None and block.before.free:
            self._withdraw(block.before)
            block, following = block.before, self._blocks.pop(block.address)
            _join(block, following)
        self._offer(block)

    def release_cached(self) -> None:
        """Return the segments without a used block to the device, as `torch.cuda.empty_cache` does."""
        for block in [self._blocks[address] for free in self._free.values() for _, address in free]:
            if block.before is None and block.after is None:
                self._withdraw(block)
                del self._blocks[block.address]
                self.reserved_bytes -= block.size_bytes

    def _smallest_free(self, size_bytes: int) -> _Block | None:
        free = self._free[size_bytes <= _LARGEST_SMALL]
        place = bisect_left(free, (size_bytes, -1))
        if place == len(free):
            return None
        block = self._blocks[free.pop(place)[1]]
        block.free = False
        return block

    def _new_segment(self, size_bytes: int) -> _Block:
        segment_bytes = segment_size(size_bytes)
        if not self._has_room(segment_bytes):
            self.release_cached()
        if not self._has_room(segment_bytes):
            raise NoRoomError(f"{segment_bytes} bytes with {self.reserved_bytes} reserved")
        block = _Block(self._next_address, segment_bytes, small=size_bytes <= _LARGEST_SMALL)
        self._next_address += segment_bytes
        self._blocks[block.address] = block
        self.reserved_bytes += segment_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return block

    def _has_room(self, segment_bytes: int) -> bool:
        return self._capacity_bytes is None or self.reserved_bytes + segment_bytes <= self._capacity_bytes

    def _split(self, block: _Block, size_bytes: int) -> None:
        rest = _Block(block.address + size_bytes, block.size_bytes - size_bytes, block.small)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.after, block.size_bytes = rest, size_bytes
        self._blocks[rest.address] = rest
        self._offer(rest)

    def _offer(self, block: _Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.size_bytes, block.address))

    def _withdraw(self, block: _Block) -> None:
        block.free = False
        free = self._free[block.small]
        del free[bisect_left(free, (block.size_bytes, block.address))]


def rounded_bytes(size_bytes: int) -> int:
    """Bytes that a request of `size_bytes` takes of its block."""
    return -(-size_bytes // _ROUNDING_BYTES) * _ROUNDING_BYTES


def segment_size(size_bytes: int) -> int:
    """Bytes of the segment that the allocator takes from the device for a request of `size_bytes`."""
    if size_bytes <= _LARGEST_SMALL:
        return _SMALL_SEGMENT
    if size_bytes < _WHOLE_SEGMENT_FROM:
        return _LARGE_SEGMENT
    return -(-size_bytes // _SEGMENT_STEP) * _SEGMENT_STEP


def _join(block: _Block, following: _Block) -> None:
    block.size_bytes += following.size_bytes
    block.after = following.after
    if following.after is not None:
        following.after.before = block

"""Pure: what a batch size will take, from a traced step and the real peaks so far, and what fits.

The trace gives the bytes alive at any size. A real step takes more, by what kernels hold inside and by what
the allocator loses between blocks: the ratio at the largest size that passed corrects the trace. Where no
step could be traced, lines through the real peaks take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autobatch.records.trial import MemoryLine, Trial

# The heap of a CPU process loses up to half of its memory between blocks, and how much changes with the size
# of the blocks: until a peak of the same order was measured, this much is allowed for.
_HEAP_RATIO = 2.0
# A peak tells the ratio of sizes that take up to this many times as much.
_REACH = 8.0
# A real peak so far from the trace means that the trace is of another step.
_PLAUSIBLE = (0.5, 4.0)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a forecast goes by.

    `limit_bytes`: what training may take; None where nobody knows. `heap`: it is a process's heap, whose
    losses vary, rather than a device's allocator. `lines`: the bytes alive by the trace, empty where the step
    can't be traced, None while nobody has asked for it.
    """

    limit_bytes: float | None = None
    heap: bool = False
    lines: tuple[MemoryLine, ...] | None = None

    def less(self, share: float) -> Memory:
        """The same with this share of the limit left free."""
        limit_bytes = None if self.limit_bytes is None else (1 - share) * self.limit_bytes
        return replace(self, limit_bytes=limit_bytes)


def taken_bytes(trial: Trial, memory: Memory) -> int | None:
    """What of a trial counts against the limit: on a heap all that the process held for it, used or not."""
    return (trial.reserved_bytes if memory.heap else None) or trial.peak_bytes


def largest_that_fits(memory: Memory, passed: Sequence[Trial]) -> int | None:
    """The largest size that is predicted to fit; None where there is nothing to go by.

    `passed`: trials that passed, by rising batch size, with their peaks.
    """
    counted = [replace(trial, peak_bytes=taken_bytes(trial, memory)) for trial in passed]
    measured = [trial for trial in counted if trial.peak_bytes]
    if memory.limit_bytes is None or not measured:
        return None
    lines = memory.lines or through_peaks(measured)
    ratio = _ratio(lines, measured[-1], memory)
    if ratio is None:
        lines, ratio = through_peaks(measured), 1.0
    return largest_alive(lines, memory.limit_bytes / ratio)


def largest_alive(lines: Sequence[MemoryLine], room_bytes: float) -> int | None:
    """The largest size whose live bytes are at most `room_bytes`; None where no line grows with the size."""
    ends = [(room_bytes - line.fixed_bytes) / line.sample_bytes for line in lines if line.sample_bytes > 0]
    return max(0, int(min(ends))) if ends else None


def live_bytes(lines: Sequence[MemoryLine], batch_size: float) -> float:
    """The bytes alive at the peak: the highest of the lines."""
    return max(line.at(batch_size) for line in lines)


def through_peaks(measured: Sequence[Trial]) -> tuple[MemoryLine, ...]:
    """Lines through real peaks, by rising batch size: no peak can more than double with the batch size.

    The peak is the highest of several lines, so the one through the two largest sizes lies at or below it.
    """
    last = measured[-1]
    assert last.peak_bytes is not None
    in_proportion = MemoryLine(fixed_bytes=0.0, sample_bytes=last.peak_bytes / last.batch_size)
    if len(measured) < 2:
        return (in_proportion,)
    before = measured[-2]
    assert before.peak_bytes is not None
    slope = (last.peak_bytes - before.peak_bytes) / (last.batch_size - before.batch_size)
    if not 0 < slope < in_proportion.sample_bytes:
        return (in_proportion,)
    return (MemoryLine(fixed_bytes=last.peak_bytes - slope * last.batch_size, sample_bytes=slope),)


def _ratio(lines: Sequence[MemoryLine], nearest: Trial, memory: Memory) -> float | None:
    """What a real step takes over what the trace has alive; None where that can't be the same step."""
    assert nearest.peak_bytes is not None
    assert memory.limit_bytes is not None
    far = nearest.peak_bytes * _REACH < memory.limit_bytes
    if memory.heap and far:
        return _HEAP_RATIO
    ratio = nearest.peak_bytes / live_bytes(lines, nearest.batch_size)
    return ratio if _PLAUSIBLE[0] < ratio < _PLAUSIBLE[1] else None

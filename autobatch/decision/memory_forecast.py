"""Pure: the memory that a batch size will take, from a traced step and the real peaks so far.

The trace gives the bytes alive at any size. A real step takes more, by the workspace of kernels and by the
gaps that the allocator leaves. The ratio at the largest size that passed corrects the trace. Where no step
could be traced, lines through the real peaks take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autobatch.decision.constants import IMPLAUSIBLE_RATIO, MEMORY_MARGIN
from autobatch.records.trial import MemoryLine, Trial


@dataclass(frozen=True, slots=True)
class Memory:
    """The facts that a forecast uses.

    `limit_bytes`: the most that training may take; None where nobody knows. `heap`: the memory is the heap of
    a CPU process, whose gaps vary from process to process, and not a device's allocator. `lines`: the bytes
    alive by the trace, empty where the step can't be traced, None before anybody has asked.
    """

    limit_bytes: float | None = None
    heap: bool = False
    lines: tuple[MemoryLine, ...] | None = None

    @property
    def room_bytes(self) -> float | None:
        """The most that a size may be predicted to take: on a heap the limit less its margin."""
        if self.limit_bytes is None or not self.heap:
            return self.limit_bytes
        return (1 - MEMORY_MARGIN) * self.limit_bytes


def taken_bytes(trial: Trial, memory: Memory) -> int | None:
    """The bytes of a trial that count against the limit: on a heap all that the process held for it."""
    return (trial.reserved_bytes if memory.heap else None) or trial.peak_bytes


def largest_that_fits(memory: Memory, passed: Sequence[Trial]) -> int | None:
    """The largest size that is predicted to fit; None where there is nothing to predict from.

    `passed`: trials that passed, by rising batch size, with their peaks.
    """
    counted = [replace(trial, peak_bytes=taken_bytes(trial, memory)) for trial in passed]
    measured = [trial for trial in counted if trial.peak_bytes]
    if memory.room_bytes is None or not measured:
        return None
    lines = memory.lines or through_peaks(measured)
    ratio = _ratio(lines, measured[-1])
    if ratio is None:
        lines, ratio = through_peaks(measured), 1.0
    return largest_alive(lines, memory.room_bytes / ratio)


def largest_alive(lines: Sequence[MemoryLine], room_bytes: float) -> int | None:
    """The largest size whose live bytes are at most `room_bytes`; None where no line grows with the size."""
    ends = [(room_bytes - line.fixed_bytes) / line.sample_bytes for line in lines if line.sample_bytes > 0]
    return max(0, int(min(ends))) if ends else None


def live_bytes(lines: Sequence[MemoryLine], batch_size: float) -> float:
    """The bytes alive at the peak: the highest of the lines."""
    return max(line.at(batch_size) for line in lines)


def through_peaks(measured: Sequence[Trial]) -> tuple[MemoryLine, ...]:
    """Lines through real peaks, by rising batch size: no peak can more than double with the batch size.

    The peak is the highest of several lines, so the line through the two largest sizes lies at or below it.
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


def _ratio(lines: Sequence[MemoryLine], largest: Trial) -> float | None:
    """A real peak over the bytes alive by the trace; None where the two can't be of the same step."""
    assert largest.peak_bytes is not None
    ratio = largest.peak_bytes / live_bytes(lines, largest.batch_size)
    return ratio if 1 / IMPLAUSIBLE_RATIO < ratio < IMPLAUSIBLE_RATIO else None

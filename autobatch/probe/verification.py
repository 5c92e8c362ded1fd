"""Whether a ceiling holds: full steps and an evaluation in fresh processes, with something to spare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, log

from autobatch.forecast import Memory, largest_that_fits, live_bytes
from autobatch.records import Limits, Trial

# The heap still grows after the first three.
VERIFY_STEPS = 5
# What fits on a heap differs from process to process by some percent: so many new workers have to hold it.
HEAP_RUNS = 2
# On a heap this share of the limit has to stay free; more, up to so much, where peaks lie far apart.
_LEAST_SPARE, _MOST_SPARE = 0.01, 0.08
# A lower size is worth another verification only if it is lower by more than this.
_NEAR_ENOUGH = 0.99


@dataclass(frozen=True, slots=True)
class Verified:
    """`batch_size` held, None where none did in the time; `failed`: a size that had passed did not hold."""

    batch_size: int | None
    trials: tuple[Trial, ...] = ()
    failed: bool = False


class Verification:
    """`attempt(size, steps, last)` is a try in a fresh process; None where the time is over."""

    def __init__(
        self, attempt: Callable[[int, int, bool], Trial | None], memory: Memory, limits: Limits
    ) -> None:
        self._attempt = attempt
        self._memory = memory
        self._limits = limits

    def run(self, trials: Sequence[Trial], size: int) -> Verified:
        """Whether `size`, or one a little below it, holds."""
        runs = HEAP_RUNS if self._memory.heap else 1
        fresh = [trial for trial in trials if trial.ok and trial.peak_bytes and trial.batch_size * 2 >= size]
        held: list[Trial] = []
        for run in range(runs):
            trial = self._attempt(size, VERIFY_STEPS, run + 1 == runs)
            if trial is None:
                return Verified(None)
            if not trial.ok:
                return Verified(None, (trial,), failed=True)
            held.append(trial)
        best = replace(held[-1], peak_bytes=max(trial.peak_bytes or 0 for trial in held) or None)
        lower = self._with_spare(size, [*fresh, *held]) if self._memory.heap else size
        if lower >= _NEAR_ENOUGH * size:
            return Verified(size, (best,))
        trial = self._attempt(lower, VERIFY_STEPS, True)
        if trial is None:
            return Verified(None)
        return Verified(lower if trial.ok else None, (best, trial), failed=not trial.ok)

    def _with_spare(self, size: int, fresh: Sequence[Trial]) -> int:
        """The largest size up to `size` at which the highest peak leaves as much room as peaks lie apart."""
        lines, limit_bytes = self._memory.lines, self._memory.limit_bytes
        if not lines or limit_bytes is None:
            return size
        ratios = [(t.peak_bytes or 0) / live_bytes(lines, t.batch_size) for t in fresh]
        spare = min(_MOST_SPARE, max(_LEAST_SPARE, log(max(ratios) / min(ratios))))
        room = Memory(limit_bytes * exp(-spare), True, lines)
        highest = replace(fresh[-1], batch_size=size, peak_bytes=round(max(ratios) * live_bytes(lines, size)))
        fits = largest_that_fits(room, [highest])
        step = self._limits.multiple_of
        return size if fits is None else max(min(size, fits) // step * step, self._limits.smallest)

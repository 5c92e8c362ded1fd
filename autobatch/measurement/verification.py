"""Whether a ceiling holds: full steps and an evaluation in fresh processes, with something to spare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

from autobatch.decision import search
from autobatch.decision.memory_forecast import Memory, largest_alive, live_bytes, taken_bytes
from autobatch.decision.trial_set import TrialSet, limit_of
from autobatch.records.limits import Limits
from autobatch.records.trial import LimitedBy, MemoryLine, Trial

# An allocator of a device takes its most in the first steps.
VERIFY_STEPS = 5
# A heap grows on for many more, and what fits on it differs from process to process by some percent: so many
# new workers have to hold for so many steps, the last at the size itself, those before at it or above.
HEAP_RUNS, HEAP_STEPS = 2, 10
# On a heap this share of the limit has to stay free: more, up to so much, where peaks lie far apart.
_LEAST_SPARE, _MOST_SPARE = 0.01, 0.08
# Before two peaks of about the size are known, they are taken to lie this far apart.
_USUAL_SPARE = 0.02
# And this share of the samples: what grows with the batch varies from process to process, parameters don't.
_SPARE_SAMPLES = 0.04
# Sizes within this ratio lose about the same share of their memory between blocks.
_ABOUT = 1.2
# The forecast may raise a size by this at most: further up, it has to be tried first.
_HIGHEST_RAISE = 1.12
# A lower size is worth another process only if it is lower by more than this.
_NEAR_ENOUGH = 0.98


@dataclass(frozen=True, slots=True)
class Verified:
    """`batch_size` held, None where none did in the time; `failed`: one that was expected to hold did not.

    `wanted`: the largest that leaves as much room as it should; without time for it, nothing above will do.
    """

    batch_size: int | None
    wanted: int
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

    def run(self, trials: TrialSet, size: int, cap: int) -> Verified:
        """Whether `size` holds; on a heap, or one near it, up to `cap`, by the forecast.

        One process after the other. On a heap each one's peak says whether the next is worth a lower size.
        """
        runs, steps = (HEAP_RUNS, HEAP_STEPS) if self._memory.heap else (1, VERIFY_STEPS)
        size = self._roomy(size, self._highest(trials, size, cap), trials)
        held: list[Trial] = []
        while True:
            trial = self._attempt(size, steps, len(held) + 1 >= runs)
            if trial is None:
                return Verified(None, size, tuple(held))
            held.append(trial)
            if not trial.ok:
                return Verified(None, size, tuple(held), failed=True)
            lower = self._roomy(size, size, trials.extended(held))
            if lower < _NEAR_ENOUGH * size:
                size = lower
            elif len(held) >= runs:
                return Verified(size, size, tuple(held))

    def _highest(self, trials: TrialSet, size: int, cap: int) -> int:
        """How far the forecast may raise `size`: not to the cap, nor near to what failed."""
        bound = trials.smallest_failure_above(size, self._limits.multiple_of)
        below_bound = int((1 - search.HEAP_RESOLUTION) * bound.batch_size) if bound else cap
        return max(size, min(int(_HIGHEST_RAISE * size), cap, below_bound))

    def _roomy(self, size: int, highest: int, trials: TrialSet) -> int:
        """On a heap the nearest size that leaves enough room and has not failed: those that did are holes."""
        if not self._memory.heap:
            return size
        failed = {n for n, trial in trials.latest.items() if not trial.ok}
        fits = self._with_spare(size, highest, trials)
        step = self._limits.multiple_of
        return next((n for n in range(fits, self._limits.smallest - 1, -step) if n not in failed), fits)

    def _with_spare(self, size: int, highest: int, trials: TrialSet) -> int:
        """The largest size up to `highest` that leaves as much room as peaks lie apart; `size` if unknown."""
        lines, limit_bytes = self._memory.lines, self._memory.limit_bytes
        if not lines or limit_bytes is None:
            return size
        near = [one for one in trials.trials if size / _ABOUT <= one.batch_size <= size * _ABOUT]
        ratios = _ratios_held(near, lines, self._memory)
        if not ratios:
            return size
        largest = max(ratios + _ratios_died(near, lines, limit_bytes))
        apart = log(largest / min(ratios)) or _USUAL_SPARE
        spare = min(_MOST_SPARE, max(_LEAST_SPARE, apart))
        all_that_fit = largest_alive(lines, limit_bytes / largest)
        fits = largest_alive(lines, limit_bytes * exp(-spare) / largest)
        if fits is None or all_that_fit is None:
            return size
        fits = min(fits, int((1 - _SPARE_SAMPLES) * all_that_fit), highest)
        step = self._limits.multiple_of
        return max(fits // step * step, self._limits.smallest)


def _ratios_held(trials: Sequence[Trial], lines: Sequence[MemoryLine], memory: Memory) -> list[float]:
    """What those that passed took, over what the trace has alive."""
    taken = [(one, taken_bytes(one, memory)) for one in trials if one.ok]
    return [peak / live_bytes(lines, one.batch_size) for one, peak in taken if peak]


def _ratios_died(trials: Sequence[Trial], lines: Sequence[MemoryLine], limit_bytes: float) -> list[float]:
    """What those that ran out of memory, and did not pass later, would have taken at least: the limit."""
    last = TrialSet(tuple(trials)).latest.values()
    died = [one for one in last if not one.ok and limit_of(one) is LimitedBy.MEMORY]
    return [limit_bytes / live_bytes(lines, one.batch_size) for one in died]

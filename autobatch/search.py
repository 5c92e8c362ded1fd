"""Pure decisions of the climb: which batch size to try next, or stop and why.

The state is the list of trials so far, nothing else, so a search can be replayed from a saved curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autobatch.records import LimitedBy, Limits, Objective, Outcome, Trial
from autobatch.timing import is_flat

# Doublings in a row that bring nothing before a plateau is believed: true dips of one size exist.
FLATS_TO_STOP = 2
# Below this, fixed costs and thread start-up decide, and throughput may fall before it rises.
SMALLEST_PLATEAU = 8
# A worker may die for reasons of its own (killed by hand, say), so a crash is believed the second time.
CRASHES_TO_BELIEVE = 2
# Where a ceiling does not hold in fresh processes, sizes near it rarely do.
STEP_DOWN = 0.03


@dataclass(frozen=True, slots=True)
class Try:
    """Try this size next; `timed`: its throughput matters, so compare it in rounds."""

    batch_size: int
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Stop:
    """No further size is worth trying."""

    limited_by: LimitedBy
    detail: str = ""


def next_move(
    trials: Sequence[Trial], limits: Limits, dataset_size: int | None, resolution: float = 0.0
) -> Try | Stop:
    """The next size to try, or the reason to stop.

    Doubling from the smallest size to the first failure, the plateau or the cap; then, where a failure
    bounds it, bisection between the largest success and the smallest failure above it, until the gap is
    one step or the share `resolution` of the size (for devices whose limit is not exact itself).
    """
    if not trials:
        return Try(limits.smallest)
    last = trials[-1]
    if last.outcome is Outcome.CRASHED and _crashes(trials, last.batch_size) < CRASHES_TO_BELIEVE:
        return Try(last.batch_size)
    largest = largest_passed(trials)
    if largest is None:
        return _after_first_failure(trials, limits, dataset_size)
    bound = smallest_failure_above(trials, largest)
    if bound is not None:
        return _refine(largest, bound, limits, resolution)
    if _on_plateau(trials) and not climbs_past_plateau(limits):
        return Stop(LimitedBy.PLATEAU, f"{FLATS_TO_STOP} doublings in a row brought no throughput")
    cap, reason = size_cap(limits, dataset_size)
    if largest >= cap:
        return Stop(reason)
    doubled = -(-largest * 2 // limits.multiple_of) * limits.multiple_of
    return Try(min(doubled, cap))


def size_cap(limits: Limits, dataset_size: int | None) -> tuple[int, LimitedBy]:
    """The largest size that may be tried at all (a multiple of `multiple_of`), and what sets it."""
    caps = [(10**9, LimitedBy.SIZE_LIMIT)]
    if dataset_size is not None:
        caps.append((dataset_size, LimitedBy.DATASET))
    caps += [(cap, LimitedBy.MAX_BATCH) for cap in (limits.max_batch, limits.global_batch) if cap is not None]
    cap, reason = min(caps, key=lambda pair: pair[0])
    return cap // limits.multiple_of * limits.multiple_of, reason


def climbs_past_plateau(limits: Limits) -> bool:
    """True where the answer needs the memory ceiling itself, not only the end of the gain."""
    return limits.ceiling or limits.objective is Objective.MEMORY or limits.global_batch is not None


def extra_sizes(
    trials: Sequence[Trial], limits: Limits, present_batch_size: int | None, ceiling: int
) -> tuple[int, ...]:
    """Sizes that the answer needs beside the climb: the user's present one, and a divisor of the target.

    Only sizes up to the ceiling that were not tried yet.
    """
    wanted = [present_batch_size, largest_divisor(limits.global_batch, ceiling, limits)]
    tried = {trial.batch_size for trial in trials}
    usable = {size for size in wanted if size and limits.smallest <= size <= ceiling}
    return tuple(sorted(size for size in usable - tried if size % limits.multiple_of == 0))


def largest_divisor(global_batch: int | None, at_most: int, limits: Limits) -> int | None:
    """The largest permitted size that divides `global_batch`; None without a target or such a size."""
    if global_batch is None:
        return None
    sizes = range(
        min(at_most, global_batch) // limits.multiple_of * limits.multiple_of, 0, -limits.multiple_of
    )
    return next((size for size in sizes if global_batch % size == 0 and size >= limits.smallest), None)


def latest(trials: Sequence[Trial]) -> dict[int, Trial]:
    """The last word on each size: a size that failed once it was tried again counts as failed."""
    return {trial.batch_size: trial for trial in trials}


def largest_passed(trials: Sequence[Trial]) -> int | None:
    """The largest size whose last trial passed."""
    return max((size for size, trial in latest(trials).items() if trial.ok), default=None)


def smallest_failure_above(trials: Sequence[Trial], size: int) -> Trial | None:
    """The failed trial of the smallest size above `size`."""
    failures = [trial for trial in latest(trials).values() if not trial.ok and trial.batch_size > size]
    return min(failures, key=lambda trial: trial.batch_size, default=None)


def next_below(size: int, limits: Limits) -> int | None:
    """The size to verify after `size` failed in a fresh process: 3% less; None below the smallest."""
    lower = min(size - limits.multiple_of, int(size * (1 - STEP_DOWN)))
    lower = lower // limits.multiple_of * limits.multiple_of
    return lower if lower >= limits.smallest else None


def _after_first_failure(trials: Sequence[Trial], limits: Limits, dataset_size: int | None) -> Try | Stop:
    """Nothing passed yet. A failure that isn't memory may be a floor (BatchNorm needs two samples)."""
    first = trials[-1]
    cap, _ = size_cap(limits, dataset_size)
    doubled = min(first.batch_size * 2, cap)
    if first.outcome is Outcome.FAILED and len(latest(trials)) == 1 and doubled > first.batch_size:
        return Try(doubled)
    return Stop(_limit_of(trials[0]), trials[0].detail)


def _refine(largest: int, bound: Trial, limits: Limits, resolution: float) -> Try | Stop:
    reason = _limit_of(bound)
    gap = (bound.batch_size - largest) // limits.multiple_of
    fine_enough = gap <= 1 or (bound.batch_size - largest) <= resolution * largest
    if fine_enough or reason is LimitedBy.BUDGET:
        return Stop(reason, bound.detail)
    middle = (largest + gap // 2 * limits.multiple_of) // limits.multiple_of * limits.multiple_of
    return Try(middle, timed=False)


def _limit_of(failure: Trial) -> LimitedBy:
    if failure.outcome is Outcome.TIMEOUT:
        return LimitedBy.BUDGET
    # The kernel ends a process with SIGKILL when the machine runs out of memory.
    killed = failure.outcome is Outcome.CRASHED and "SIGKILL" in failure.detail
    return LimitedBy.MEMORY if killed or failure.outcome is Outcome.OUT_OF_MEMORY else LimitedBy.SIZE_LIMIT


def _on_plateau(trials: Sequence[Trial]) -> bool:
    compared = [t for t in trials if t.ok and t.gain is not None and t.batch_size >= SMALLEST_PLATEAU]
    return len(compared) >= FLATS_TO_STOP and all(is_flat(trial.gain) for trial in compared[-FLATS_TO_STOP:])


def _crashes(trials: Sequence[Trial], size: int) -> int:
    return sum(trial.outcome is Outcome.CRASHED for trial in trials if trial.batch_size == size)

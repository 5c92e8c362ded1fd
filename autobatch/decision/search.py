"""Pure decisions of the climb: which batch size to try next, or stop and why.

The state is the set of trials so far and what a forecast of memory goes by, nothing else, so a search can be
replayed from a saved curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from autobatch.decision.memory_forecast import Memory, largest_that_fits, taken_bytes
from autobatch.decision.round_statistics import is_flat
from autobatch.decision.trial_set import TrialSet, limit_of
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import LimitedBy, Outcome, Trial

# Doublings in a row that bring nothing before a plateau is believed: true dips of one size exist.
FLATS_TO_STOP = 2
# Below this, fixed costs and thread start-up decide, and throughput may fall before it rises.
SMALLEST_PLATEAU = 8
# A worker may die for reasons of its own (killed by hand, say), so a crash is believed the second time.
CRASHES_TO_BELIEVE = 2
# Sizes that may fail before the first success: batch normalisation over parts of a batch needs some samples.
FLOOR_TRIES = 4
# What stands for the user's present size where none is known.
USUAL_BATCH_SIZE = 32
# What a heap holds at a size differs by some percent from process to process, so none is sought closer.
HEAP_RESOLUTION = 0.04
# From a size so near below the forecast, the rest is left to the verification, in fresh processes.
_HEAP_REACH = 0.1
# Up to so far a real peak says what a heap loses, further up less.
_HEAP_STRIDE = 1.25
# The share of the limit that a forecast leaves on a heap, near to a real peak and far from it.
_HEAP_SPARE, _HEAP_SPARE_AFAR = 0.02, 0.1
# A jump this far is as good as a doubling: its throughput is worth knowing.
_WORTH_TIMING = 1.3
# Below this a doubling costs little, whatever is predicted.
_SMALLEST_STRIDE = 16
# Where a forecast was too high, the next try goes back this share of the gap, twice as far each time.
_FIRST_RETREAT = 0.12


@dataclass(frozen=True, slots=True)
class Try:
    """Try this size next; `timed`: its throughput matters, so compare it in rounds."""

    batch_size: int
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Trace:
    """Trace a step, so that its memory at any size is known: the limit is near, or is all that counts."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No further size is worth trying."""

    limited_by: LimitedBy
    detail: str = ""


NO_FORECAST = Memory()


def next_move(
    trials: TrialSet, limits: Limits, dataset_size: int | None, memory: Memory = NO_FORECAST
) -> Try | Trace | Stop:
    """The next size to try, or the reason to stop.

    Doubling from the smallest size to the first failure, the plateau or the cap, but never past what is
    predicted to fit: from there, and where only the ceiling counts, straight to the predicted ceiling. Then
    real successes and failures close in on it until one step is left between them, or 4% on a heap.
    """
    if not trials.trials:
        return Try(limits.smallest, timed=limits.objective is not Objective.MEMORY)
    last = trials.trials[-1]
    if last.outcome is Outcome.CRASHED and _crashes(trials, last.batch_size) < CRASHES_TO_BELIEVE:
        return Try(last.batch_size)
    lo = trials.largest_passed
    if lo is None:
        return _after_first_failure(trials, limits, dataset_size)
    cap, reason = size_cap(limits, dataset_size)
    hi = trials.smallest_failure_above(lo, limits.multiple_of)
    beyond = _beyond_hole(trials, lo, limits, cap)
    if beyond is not None:
        return beyond
    if hi is not None:
        return _past_tried(_close_in(trials, lo, hi, limits, memory), trials, lo, hi, limits)
    plateau = _on_plateau(trials)
    to_ceiling = limits.objective is Objective.MEMORY or (climbs_past_plateau(limits) and plateau)
    if plateau and not to_ceiling:
        return Stop(LimitedBy.PLATEAU, f"{FLATS_TO_STOP} doublings in a row brought no throughput")
    if lo >= cap:
        return Stop(reason)
    return _upwards(trials, lo, cap, limits, memory, to_ceiling=to_ceiling)


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
    trials: TrialSet, limits: Limits, current_batch_size: int | None, ceiling: int
) -> tuple[int, ...]:
    """Sizes that the answer needs beside the climb: the user's present one, and a divisor of the target.

    Only sizes up to the ceiling that were not tried yet.
    """
    wanted = [current_batch_size, largest_divisor(limits.global_batch, ceiling, limits)]
    tried = {trial.batch_size for trial in trials.trials}
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


def _upwards(
    trials: TrialSet, lo: int, cap: int, limits: Limits, memory: Memory, *, to_ceiling: bool
) -> Try | Trace | Stop:
    """Nothing above the largest success has failed: the next doubling, or as far as memory is said to go."""
    doubled = min(_rounded_up(2 * lo, limits), cap)
    if memory.lines is None and _may_not_fit(trials, lo, memory, to_ceiling=to_ceiling):
        return Trace()
    fits = _predicted(trials, limits, memory)
    if fits is None or (fits >= doubled and not to_ceiling):
        return Try(doubled, timed=not to_ceiling)
    goal = min(fits, cap)
    if goal - lo > (int(_HEAP_REACH * lo) if memory.heap and goal == fits else 0):
        far = goal >= _WORTH_TIMING * lo and limits.objective is not Objective.MEMORY
        return Try(goal, timed=far and not (to_ceiling and goal > doubled))
    if memory.heap and memory.lines:
        return Stop(LimitedBy.MEMORY, "the next larger size is predicted not to fit")
    if not memory.lines or lo < _SMALLEST_STRIDE:
        return Try(doubled, timed=not to_ceiling)
    return Try(min(lo + _stride(trials, lo, limits, memory), doubled, cap), timed=False)


def _close_in(trials: TrialSet, lo: int, hi: Trial, limits: Limits, memory: Memory) -> Try | Stop:
    """A size between the largest success and the smallest failure above it; the predicted one, if any."""
    reason = limit_of(hi)
    gap = (hi.batch_size - lo) // limits.multiple_of
    near_enough = memory.heap and reason is LimitedBy.MEMORY and hi.batch_size - lo <= HEAP_RESOLUTION * lo
    if gap <= 1 or near_enough or reason is LimitedBy.BUDGET:
        return Stop(reason, hi.detail)
    fits = _predicted(trials, limits, memory) if reason is LimitedBy.MEMORY else None
    if memory.heap and fits is not None and fits < hi.batch_size:
        # Another process may lose a little more or less, so just below a failure nothing is certain.
        fits = min(
            fits,
            _between(lo, hi.batch_size, 1 - HEAP_RESOLUTION * hi.batch_size / (hi.batch_size - lo), limits),
        )
    if fits is not None and lo < fits < hi.batch_size:
        return Try(fits, timed=False)
    if fits is not None and fits <= lo and lo in {trial.batch_size for trial in trials.trials[-2:]}:
        # The forecast says that this was the last one: then the next is the likeliest to fail.
        return Try(
            min(lo + _stride(trials, lo, limits, memory), _between(lo, hi.batch_size, 0.5, limits)),
            timed=False,
        )
    back = 0.5
    if fits is not None and fits >= hi.batch_size:
        back = min(0.5, _FIRST_RETREAT * 2 ** (_failures_in_a_row(trials) - 1))
    return Try(_between(lo, hi.batch_size, 1 - back, limits), timed=False)


def _past_tried(move: Try | Stop, trials: TrialSet, lo: int, hi: Trial, limits: Limits) -> Try | Stop:
    """The move, or where its size is a known hole, the nearest one below it, else above it."""
    if isinstance(move, Stop) or move.batch_size not in trials.latest:
        return move
    step, tried = limits.multiple_of, trials.latest
    below = range(move.batch_size - step, lo, -step)
    above = range(move.batch_size + step, hi.batch_size, step)
    size = next((one for one in chain(below, above) if one not in tried), None)
    return Stop(limit_of(hi), hi.detail) if size is None else Try(size, timed=False)


def _may_not_fit(trials: TrialSet, lo: int, memory: Memory, *, to_ceiling: bool) -> bool:
    """True where the limit may lie below twice the size that passed, or is what is sought."""
    peak = taken_bytes(trials.latest[lo], memory)
    if memory.limit_bytes is None or not peak:
        return False
    return to_ceiling or 2 * peak > memory.limit_bytes * (1 - _HEAP_SPARE)


def _predicted(trials: TrialSet, limits: Limits, memory: Memory) -> int | None:
    """The largest permitted size that is predicted to fit."""
    passed = trials.passed
    fits = largest_that_fits(memory.less(_HEAP_SPARE if memory.heap else 0.0), passed)
    if memory.heap and fits is not None and fits > (1 + _HEAP_REACH) * passed[-1].batch_size:
        afar = largest_that_fits(memory.less(_HEAP_SPARE_AFAR), passed)
        fits = max(afar or 0, min(fits, int(_HEAP_STRIDE * passed[-1].batch_size)))
    return None if fits is None else fits // limits.multiple_of * limits.multiple_of


def _stride(trials: TrialSet, lo: int, limits: Limits, memory: Memory) -> int:
    """One step, or twice the last gap: where forecasts are too low, the steps above them grow."""
    step = max(limits.multiple_of, int(HEAP_RESOLUTION * lo) if memory.heap else 0)
    below = max((t.batch_size for t in trials.passed if t.batch_size < lo), default=0)
    gap = lo - below
    stride = max(step, 2 * gap if below and gap <= lo // 8 else 0)
    return _rounded_up(stride, limits)


def _between(lo: int, hi: int, share: float, limits: Limits) -> int:
    """The size `share` of the way from lo to hi, strictly between them."""
    step = limits.multiple_of
    steps = (hi - lo) // step
    return (lo + min(max(1, int(share * steps)), steps - 1) * step) // step * step


def _failures_in_a_row(trials: TrialSet) -> int:
    count = 0
    for trial in reversed(trials.trials):
        if trial.ok:
            break
        count += 1
    return max(1, count)


def _beyond_hole(trials: TrialSet, lo: int, limits: Limits, cap: int) -> Try | None:
    """The next size after one that failed for a reason other than memory, as long as it may be a hole."""
    step, last = limits.multiple_of, trials.latest
    failed = trials.trials[-1]
    following = failed.batch_size + step
    if failed.outcome is not Outcome.FAILED or following > cap or following in last:
        return None
    is_limit = any(trials.persists(size, step) for size in last if size > lo)
    return None if is_limit else Try(following, timed=False)


def _rounded_up(size: int, limits: Limits) -> int:
    return -(-size // limits.multiple_of) * limits.multiple_of


def _after_first_failure(trials: TrialSet, limits: Limits, dataset_size: int | None) -> Try | Stop:
    """Nothing passed yet. A failure that isn't memory may be a floor (BatchNorm needs two samples)."""
    last = trials.trials[-1]
    cap, _ = size_cap(limits, dataset_size)
    doubled = min(_rounded_up(last.batch_size * 2, limits), cap)
    all_errors = all(trial.outcome is Outcome.FAILED for trial in trials.trials)
    if all_errors and len(trials.latest) < FLOOR_TRIES and doubled > last.batch_size:
        return Try(doubled, timed=limits.objective is not Objective.MEMORY)
    return Stop(limit_of(trials.trials[0]), trials.trials[0].detail)


def _on_plateau(trials: TrialSet) -> bool:
    compared = [t for t in trials.trials if t.ok and t.gain is not None and t.batch_size >= SMALLEST_PLATEAU]
    return len(compared) >= FLATS_TO_STOP and all(is_flat(trial.gain) for trial in compared[-FLATS_TO_STOP:])


def _crashes(trials: TrialSet, size: int) -> int:
    return sum(trial.outcome is Outcome.CRASHED for trial in trials.trials if trial.batch_size == size)

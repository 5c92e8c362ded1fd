"""Pure: the bounds of a search that has a success, and the moves between them.

Upwards as long as nothing has failed above, then between the largest success and the smallest failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from autobatch.decision.constants import MEMORY_MARGIN, SMALL_BATCH_SIZE
from autobatch.decision.memory_forecast import Memory, largest_that_fits, taken_bytes
from autobatch.decision.size_bounds import next_doubling, size_cap
from autobatch.decision.trial_set import TrialSet, limit_of
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import LimitedBy, Trial


@dataclass(frozen=True, slots=True)
class Try:
    """Try this size next; `timed`: its throughput matters, so compare it in rounds."""

    batch_size: int
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Trace:
    """Trace a step, so that its memory at any size can be predicted: the limit is near, or is the goal."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No further size is worth trying."""

    limited_by: LimitedBy
    detail: str = ""


@dataclass(frozen=True)
class Reach:
    """The bounds of a search that has a success: `passed`, the first failure above it, and the cap."""

    trial_set: TrialSet
    limits: Limits
    memory: Memory
    cap: int

    @cached_property
    def passed(self) -> int:
        """The largest size that passed."""
        assert self.trial_set.largest_passed is not None
        return self.trial_set.largest_passed

    @cached_property
    def failure(self) -> Trial | None:
        """The failed trial of the smallest size above it."""
        return self.trial_set.smallest_failure_above(self.passed, self.limits.unit)

    @cached_property
    def doubled(self) -> int:
        """The next doubling, as far as the cap allows."""
        return next_doubling(self.passed, self.limits, self.cap)

    @cached_property
    def fits(self) -> int | None:
        """The largest permitted size that is predicted to fit; None without a forecast."""
        fits = largest_that_fits(self.memory, self.trial_set.passed)
        return None if fits is None else self.limits.rounded_down(fits)

    @property
    def resolution(self) -> int:
        """Samples: no size closer to the ceiling is looked for. On a heap it is its margin."""
        closest = int(MEMORY_MARGIN * self.passed) if self.memory.heap else 0
        return max(self.limits.unit, closest)

    @property
    def stride(self) -> int:
        """One step, or twice the last gap: where forecasts are too low, the steps above them grow."""
        below = max((t.batch_size for t in self.trial_set.passed if t.batch_size < self.passed), default=0)
        gap = self.passed - below
        grown = 2 * gap if below and gap <= MEMORY_MARGIN * self.passed else 0
        return self.limits.rounded_up(max(self.limits.unit, grown))

    def below(self, failure: Trial) -> int:
        """The size that leaves the margin to a failure."""
        return self.limits.rounded_down(int((1 - MEMORY_MARGIN) * failure.batch_size))

    def between(self, share: float, failure: Trial) -> int:
        """The size `share` of the way from the success to the failure, strictly between them."""
        step = self.limits.unit
        steps = (failure.batch_size - self.passed) // step
        return self.limits.rounded_down(self.passed + min(max(1, int(share * steps)), steps - 1) * step)


def upwards(reach: Reach, *, to_ceiling: bool) -> Try | Trace | Stop:
    """The next size where nothing above the largest success has failed: a doubling, or the forecast."""
    fits, passed = reach.fits, reach.passed
    if reach.memory.lines is None and _may_not_fit(reach, to_ceiling=to_ceiling):
        return Trace()
    if fits is None or (fits >= reach.doubled and (reach.memory.heap or not to_ceiling)):
        return Try(reach.doubled, timed=not to_ceiling)
    # Peaks of small batches, or a single one, say little about larger batches.
    few = passed < SMALL_BATCH_SIZE or len(reach.trial_set.passed) == 1
    vague = few or not reach.memory.lines
    if reach.memory.heap and fits <= passed + reach.resolution and not vague:
        return Stop(LimitedBy.MEMORY, "a larger batch is predicted not to leave the margin free")
    goal = min(fits, reach.cap)
    if goal > passed:
        return Try(goal, timed=_is_worth_timing(goal, reach, to_ceiling=to_ceiling))
    # The forecast says that nothing larger fits. A step upwards shows whether that is true.
    if vague:
        return Try(reach.doubled, timed=not to_ceiling)
    return Try(min(passed + reach.stride, reach.doubled), timed=False)


def close_in(reach: Reach, failure: Trial) -> Try | Trace | Stop:
    """A size between the largest success and the smallest failure above it; a known hole is passed by."""
    by_memory = limit_of(failure) is LimitedBy.MEMORY
    if by_memory and reach.memory.lines is None and _may_not_fit(reach, to_ceiling=True):
        return Trace()
    return _past_tried(_between(reach, failure), reach, failure)


def _between(reach: Reach, failure: Trial) -> Try | Stop:
    reason = limit_of(failure)
    by_memory = reason is LimitedBy.MEMORY
    resolution = reach.resolution if by_memory else reach.limits.unit
    if failure.batch_size - reach.passed <= resolution or reason is LimitedBy.BUDGET:
        return Stop(reason, failure.detail)
    if not by_memory or reach.fits is None:
        return Try(reach.between(0.5, failure), timed=False)
    if reach.memory.heap:
        size = min(reach.fits, reach.below(failure))
        near = size <= reach.passed + resolution
        return Stop(reason, failure.detail) if near else Try(size, timed=False)
    return Try(_forecast_between(reach, failure, reach.fits), timed=False)


def _forecast_between(reach: Reach, failure: Trial, fits: int) -> int:
    """The size to try in the gap, as the forecast has it, or as its errors so far suggest."""
    if reach.passed < fits < failure.batch_size:
        return fits
    middle = reach.between(0.5, failure)
    if fits >= failure.batch_size:
        # Too high: go back a little, and twice as far each time.
        back = MEMORY_MARGIN * 2 ** (_failures_in_a_row(reach.trial_set) - 1)
        return max(middle, reach.between(1 - back, failure))
    if reach.passed in {trial.batch_size for trial in reach.trial_set.trials[-2:]}:
        # The forecast says that this was the last one: then the next is the likeliest to fail.
        return min(reach.passed + reach.stride, middle)
    return middle


def _past_tried(move: Try | Stop, reach: Reach, failure: Trial) -> Try | Stop:
    """The move, or where its size is a known hole, the nearest one below it, else above it."""
    tried = reach.trial_set.latest
    if isinstance(move, Stop) or move.batch_size not in tried:
        return move
    step = reach.limits.unit
    below = range(move.batch_size - step, reach.passed, -step)
    above = range(move.batch_size + step, failure.batch_size, step)
    size = next((size for size in chain(below, above) if size not in tried), None)
    return Stop(limit_of(failure), failure.detail) if size is None else Try(size, timed=False)


def _may_not_fit(reach: Reach, *, to_ceiling: bool) -> bool:
    """True where the limit may lie below twice the size that passed, or is the goal."""
    peak_bytes = taken_bytes(reach.trial_set.latest[reach.passed], reach.memory)
    if reach.memory.room_bytes is None or not peak_bytes:
        return False
    return to_ceiling or 2 * peak_bytes > reach.memory.room_bytes


def _is_worth_timing(size: int, reach: Reach, *, to_ceiling: bool) -> bool:
    """True for a jump of half a doubling or more, unless only its memory counts."""
    if reach.limits.objective is Objective.MEMORY or (to_ceiling and size > reach.doubled):
        return False
    return 2 * size >= reach.passed + reach.doubled


def _failures_in_a_row(trial_set: TrialSet) -> int:
    """The failures since the last success; at least one."""
    count = 0
    for trial in reversed(trial_set.trials):
        if trial.ok:
            break
        count += 1
    return max(1, count)


def size_to_confirm(
    trial_set: TrialSet, limits: Limits, dataset_size: int | None, memory: Memory
) -> int | None:
    """The size to try in a fresh process, as the ceiling; None where no size has passed.

    The largest size that passed. On a heap it is the largest that is predicted to leave the margin, below all
    that failed by the margin, whether it was tried or not; where none leaves it, the largest that passed.
    """
    if trial_set.largest_passed is None or not memory.heap:
        return trial_set.largest_passed
    cap, _ = size_cap(limits, dataset_size)
    reach = Reach(trial_set, limits, memory, cap)
    highest = reach.passed if reach.fits is None else reach.fits
    if reach.failure is not None:
        highest = min(highest, reach.below(reach.failure))
    failed = {size for size, trial in trial_set.latest.items() if not trial.ok}
    sizes = range(limits.rounded_down(min(highest, cap)), limits.smallest - 1, -limits.unit)
    return next((size for size in sizes if size not in failed), reach.passed)

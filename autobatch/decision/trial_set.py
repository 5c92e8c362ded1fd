"""Pure: all trials of a search as one set, with every view that decisions take of them.

A size may be tried more than once, and its last trial counts. Nobody else filters trials.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

from autobatch.decision.constants import MIN_REPEATS
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, LimitedBy, Outcome, Trial


@dataclass(frozen=True)
class TrialSet:
    """Trials in the order in which they ran.

    `ceiling`: the largest size that may be used, in samples. None while the search is going on.
    """

    trials: tuple[Trial, ...] = ()
    ceiling: int | None = None

    @classmethod
    def of(cls, curve: Curve) -> TrialSet:
        """The trials of a finished probe, below its ceiling."""
        return cls(curve.trials, curve.ceiling.batch_size)

    @cached_property
    def latest(self) -> dict[int, Trial]:
        """The last trial of each size, by batch size."""
        return {trial.batch_size: trial for trial in self.trials}

    @cached_property
    def passed(self) -> tuple[Trial, ...]:
        """The trials that count and passed, by rising batch size."""
        trials = (trial for trial in self.latest.values() if trial.ok)
        return tuple(sorted(trials, key=lambda trial: trial.batch_size))

    @cached_property
    def usable(self) -> tuple[Trial, ...]:
        """The trials that passed and do not exceed the ceiling, by rising batch size."""
        ceiling = self.ceiling
        return tuple(trial for trial in self.passed if ceiling is None or trial.batch_size <= ceiling)

    @cached_property
    def compared(self) -> tuple[Trial, ...]:
        """The usable sizes that were timed in rounds, beside the best size before them or alone."""
        return tuple(
            trial
            for trial in self.usable
            if len(trial.step_seconds) >= (1 if trial.gain is not None else MIN_REPEATS)
        )

    @cached_property
    def timed_in_rounds(self) -> tuple[Trial, ...]:
        """The usable sizes with enough timing rounds to compare them."""
        return tuple(trial for trial in self.usable if len(trial.step_seconds) >= MIN_REPEATS)

    @cached_property
    def timed(self) -> tuple[Trial, ...]:
        """The usable sizes that were timed in rounds; without any, those with a rough step time.

        Sizes with fewer rounds count where a search ended before it had enough of two sizes. A size that was
        only tried for memory has one rough step time, or none.
        """
        in_rounds = self.timed_in_rounds if len(self.timed_in_rounds) > 1 else self.compared
        return in_rounds or tuple(trial for trial in self.usable if trial.step_seconds)

    @cached_property
    def best(self) -> Trial | None:
        """The timed size with the highest throughput; None where no size was timed."""
        return max(self.timed, key=throughput, default=None)

    @cached_property
    def step_time(self) -> StepTimeLaw | None:
        """The step-time model of the timed sizes; None where no size was timed."""
        if not self.timed:
            return None
        return fit_step_time(
            [trial.batch_size for trial in self.timed], [trial.step_seconds for trial in self.timed]
        )

    @cached_property
    def largest_passed(self) -> int | None:
        """The largest size that passed below every size that ran out of memory."""
        exhausted = [n for n, trial in self.latest.items() if trial.outcome is Outcome.OUT_OF_MEMORY]
        lowest = min(exhausted, default=None)
        sizes = (trial.batch_size for trial in self.passed)
        return max((size for size in sizes if lowest is None or size < lowest), default=None)

    @property
    def floor(self) -> int:
        """The smallest size that passed, where an error ended a smaller one; else 1."""
        smallest = min((trial.batch_size for trial in self.passed), default=1)
        failed = (size for size, trial in self.latest.items() if trial.outcome is Outcome.FAILED)
        return smallest if any(size < smallest for size in failed) else 1

    def without_kept_memory(self) -> TrialSet:
        """The trials with at most the peak of the larger sizes that passed.

        A process that trained at these keeps some of their memory in its heap. A smaller size that comes
        later seems to take it.
        """
        return TrialSet(tuple(map(self._bounded_by_larger, self.trials)), self.ceiling)

    def _bounded_by_larger(self, trial: Trial) -> Trial:
        peaks = [each.peak_bytes for each in self.passed if each.batch_size > trial.batch_size]
        bounds = [peak for peak in (trial.peak_bytes, *peaks) if peak is not None]
        return trial if trial.peak_bytes is None else replace(trial, peak_bytes=min(bounds))

    def nearest(self, size: int) -> Trial | None:
        """The largest usable size up to `size`, else the smallest usable one."""
        below = [trial for trial in self.usable if trial.batch_size <= size]
        return below[-1] if below else next(iter(self.usable), None)

    def holes(self, step: int) -> set[int]:
        """Sizes that failed for another reason than memory, where the size `step` above did not."""
        errors = {size for size, trial in self.latest.items() if trial.outcome is Outcome.FAILED}
        return {size for size in errors if size + step in self.latest and size + step not in errors}

    def persists(self, size: int, step: int) -> bool:
        """True where an error at `size` is no hole: the size `step` below failed as well."""
        below = self.latest.get(size - step)
        return below is not None and below.outcome is Outcome.FAILED

    def smallest_failure_above(self, size: int, step: int = 1) -> Trial | None:
        """The failed trial of the smallest size above `size` that is no hole."""
        holes = self.holes(step)
        failures = [t for n, t in self.latest.items() if not t.ok and n > size and n not in holes]
        return min(failures, key=lambda trial: trial.batch_size, default=None)

    def only(self, sizes: Container[int]) -> TrialSet:
        """The trials of these sizes."""
        return TrialSet(tuple(t for t in self.trials if t.batch_size in sizes), self.ceiling)

    def within(self, limits: Limits, measured_limit_bytes: int | None) -> TrialSet:
        """The trials of the sizes that `limits` permit.

        `measured_limit_bytes`: the memory that training could take when the trials ran; None if unknown. A
        memory limit below it excludes the sizes that held more.
        """
        room_bytes = None
        if limits.memory_bytes is not None:
            room_bytes = int(limits.memory_fraction * limits.memory_bytes)
        if room_bytes is not None and measured_limit_bytes is not None and room_bytes >= measured_limit_bytes:
            room_bytes = None
        return self.only(
            {
                size
                for size, trial in self.latest.items()
                if limits.permits(size) and (room_bytes is None or held_bytes(trial) <= room_bytes)
            }
        )

    def with_latest(self, trials: Iterable[Trial]) -> TrialSet:
        """The set with these in place of the last trials of their sizes."""
        latest, new = self.latest, {trial.batch_size: trial for trial in trials}
        replaced = (new.get(t.batch_size, t) if t is latest[t.batch_size] else t for t in self.trials)
        return TrialSet(tuple(replaced), self.ceiling)

    def extended(self, trials: Iterable[Trial]) -> TrialSet:
        """The set with more trials after its own."""
        return TrialSet((*self.trials, *trials), self.ceiling)


def throughput(trial: Trial) -> float:
    """Samples per second; 0 for a size that was tried for memory only."""
    if trial.samples_per_second or not trial.step_seconds:
        return trial.samples_per_second or 0.0
    return trial.batch_size / median(trial.step_seconds)


def held_bytes(trial: Trial) -> int:
    """The memory that counts against a limit, as far as it was measured."""
    return max(trial.peak_bytes or 0, trial.reserved_bytes or 0)


def limit_of(failure: Trial) -> LimitedBy:
    """The limit that a failed trial ran into."""
    if failure.outcome is Outcome.TIMEOUT:
        return LimitedBy.BUDGET
    # The kernel ends a process with SIGKILL when the machine runs out of memory.
    killed = failure.outcome is Outcome.CRASHED and "SIGKILL" in failure.detail
    return LimitedBy.MEMORY if killed or failure.outcome is Outcome.OUT_OF_MEMORY else LimitedBy.SIZE_LIMIT

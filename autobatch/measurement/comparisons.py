"""The throughput of sizes that passed: beside the best size so far, and all side by side at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autobatch.decision.constants import (
    CONTENDER_RATIO,
    IMPLAUSIBLE_RATIO,
    LEAST_CANDIDATE_RATIO,
    MIN_REPEATS,
    STAGE_SHARE,
    TOLERANCE,
    USUAL_BATCH_SIZE,
)
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.trial_set import TrialSet, throughput
from autobatch.engines import messages
from autobatch.measurement import diagnosis
from autobatch.measurement.attempts import Attempts
from autobatch.measurement.budget import Budget
from autobatch.measurement.rounds import Rounds
from autobatch.records.limits import Limits
from autobatch.records.trial import Gain, Outcome, Trial


class Comparisons:
    """Compares sizes by rounds. Everything that it measured is in `rounds`."""

    def __init__(self, attempts: Attempts, rounds: Rounds, budget: Budget) -> None:
        self._attempts = attempts
        self._budget = budget
        self.rounds = rounds

    def with_best(self, trial: Trial, trial_set: TrialSet, memory: Memory) -> tuple[Trial, ...]:
        """The trial with its throughput from rounds, in turns with rounds of the best size so far.

        A failed round takes its place; where it is of the best size, the trial comes before it.
        """
        best = best_in_rounds(trial_set)
        result = self._compare(trial.batch_size, None if best is None else best.batch_size)
        if not isinstance(result, messages.Tried) and not self._train_as_tried(trial):
            self._attempts.warn(diagnosis.stops_training(trial.batch_size))
            return (trial,)
        if not isinstance(result, messages.Tried):
            return (_unless_collapsed(replace(self._retimed(trial), gain=result), memory),)
        failed = self._attempts.trial_of(result, trial_set.largest_passed)
        if memory.heap and failed.outcome is Outcome.OUT_OF_MEMORY:
            # Rounds of two sizes in one process leave gaps in its heap; the size itself has passed.
            return (trial,)
        return (failed,) if failed.batch_size == trial.batch_size else (trial, failed)

    def _train_as_tried(self, trial: Trial) -> bool:
        """False where steps of the rounds did nothing, so that their time is none of a training step."""
        tried = self._attempts.passed[trial.batch_size]
        ratio = tried.optimizer_steps * tried.batch_size / tried.samples
        # fp16 skips a step now and then. Of a loop that accumulates, three steps say little about the ratio.
        least = 1 - TOLERANCE if ratio >= 1 else ratio / 2
        rounds = self.rounds.of(trial.batch_size)
        return all(each.optimizer_steps >= least * each.steps for each in rounds)

    def _compare(self, size: int, best_size: int | None) -> Gain | messages.Tried | None:
        """The gain, or the failure of a round; an error counts if it comes in a fresh process as well."""
        self.rounds.isolated = self._attempts.isolated
        result = self.rounds.compare(size, best_size)
        if self.rounds.isolated or not isinstance(result, messages.Tried):
            return result
        if not diagnosis.may_be_of_state(result):
            return result
        # Only the first round of a size draws the same samples again, so that state alone can be the cause.
        is_first = not self.rounds.of(result.batch_size)
        self.rounds.isolated = True
        again = self.rounds.compare(size, best_size)
        if is_first and not isinstance(again, messages.Tried):
            self._attempts.isolate(result.batch_size, result.detail)
        return again

    def side_by_side(
        self, trial_set: TrialSet, ceiling: int, limits: Limits, current: int | None
    ) -> TrialSet:
        """The trials with the sizes that may be the answer timed in one window.

        So drift can't choose among them: the current size, those near the best throughput, and for a check
        also all that it may choose, where there is the time.
        """
        below = TrialSet(trial_set.trials, ceiling)
        near = _near_best(below, current)
        answers = _may_be_answer(below, limits, current)
        most_seconds = STAGE_SHARE * limits.budget_seconds
        retimed = self._in_one_window(answers, current, most_seconds)
        if retimed is None and len(answers) > len(near):
            retimed = self._in_one_window(near, current, most_seconds)
        return trial_set if retimed is None else trial_set.with_latest(retimed)

    def seconds_needed(self, trial_set: TrialSet, limits: Limits, current: int | None) -> float:
        """The seconds of the fewest rounds side by side, and of a trial of one more size with its rounds."""
        answers = _may_be_answer(trial_set, limits, current)
        seconds = [self.rounds.seconds_of(trial.batch_size) for trial in answers]
        # The next size takes twice the time. Its steps and its pair with the best take as long as its rounds.
        return MIN_REPEATS * (sum(seconds) + 2 * 2 * max(seconds, default=0.0))

    def _in_one_window(
        self, several: Sequence[Trial], current: int | None, most_seconds: float
    ) -> list[Trial] | None:
        """The trials with the times of one window; None where it had too few rounds of them."""
        self.rounds.isolated = self._attempts.isolated
        sizes = [trial.batch_size for trial in several]
        count = self.rounds.time_side_by_side(sizes, current, self._budget.stage(1), most_seconds)
        return [self._retimed(trial, last=count) for trial in several] if count else None

    def _retimed(self, trial: Trial, last: int = 0) -> Trial:
        return self._attempts.retimed(trial, self.rounds.of(trial.batch_size), last)


def best_in_rounds(trial_set: TrialSet) -> Trial | None:
    """The size of the highest throughput among those that were timed in rounds."""
    return max(trial_set.compared, key=throughput, default=None)


def looks_collapsed(trial: Trial, trial_set: TrialSet) -> bool:
    """True if the rough throughput is so low that only rounds can tell whether memory spills over."""
    best, rough = best_in_rounds(trial_set), trial.samples_per_second
    if best is None or rough is None or trial.batch_size < best.batch_size:
        return False
    return IMPLAUSIBLE_RATIO * rough < throughput(best)


def _unless_collapsed(trial: Trial, memory: Memory) -> Trial:
    """The trial, or a failure in its place where its throughput fell as no computation makes it fall."""
    gain, limit_bytes = trial.gain, memory.limit_bytes
    # Below half of the limit no memory can have spilled over.
    is_roomy = limit_bytes is not None and 2 * (trial.peak_bytes or 0) < limit_bytes
    if is_roomy or gain is None or not gain.decided or IMPLAUSIBLE_RATIO * gain.high > 1:
        return trial
    detail = f"throughput collapsed to {gain.ratio:.0%} of that at {gain.over:,}: memory spills over"
    return replace(trial, outcome=Outcome.OUT_OF_MEMORY, detail=detail, phase="timing")


def _may_be_answer(trial_set: TrialSet, limits: Limits, current: int | None) -> list[Trial]:
    """The compared sizes near the best, and for a check all but those far below the current size."""
    near = _near_best(trial_set, current)
    if not limits.check or limits.asks_for_size:
        return near
    least = LEAST_CANDIDATE_RATIO * (current or USUAL_BATCH_SIZE)
    return [trial for trial in trial_set.compared if trial in near or trial.batch_size >= least]


def _near_best(trial_set: TrialSet, current: int | None) -> list[Trial]:
    """The compared sizes with nearly the best throughput, and the current size."""
    least = CONTENDER_RATIO * max(map(throughput, trial_set.compared), default=0.0)
    return [
        trial for trial in trial_set.compared if trial.batch_size == current or throughput(trial) >= least
    ]

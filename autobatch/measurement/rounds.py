"""Timing rounds of sizes that passed: pairs of two sizes in turns, and several sizes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import median

from autobatch.decision import round_statistics
from autobatch.decision.constants import MAX_REPEATS, MIN_REPEATS
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.budget import Budget
from autobatch.records.trial import Gain, Trial


class Rounds:
    """All timing rounds of a search, by batch size.

    `isolated`: each round runs in a fresh process, because the training keeps state that can't be put back.
    """

    def __init__(self, engine: Engine, budget: Budget) -> None:
        self._engine = engine
        self._budget = budget
        self._timed: dict[int, list[messages.Timed]] = {}
        self.isolated = False

    def of(self, batch_size: int) -> list[messages.Timed]:
        """The rounds of a size, in their order."""
        return self._timed.get(batch_size, [])

    def compare(self, batch_size: int, best_size: int | None) -> Gain | messages.Tried | None:
        """The gain of a size over the best one, from rounds in turns; a failed round in its place.

        Without a `best_size` the size is only timed, and there is no gain.
        """
        log_ratios: list[float] = []
        gain = None
        for _ in range(MAX_REPEATS):
            failure = self._time(batch_size) or (None if best_size is None else self._time(best_size))
            if failure is not None:
                return failure
            if best_size is not None:
                log_ratios.append(self._log_ratio(batch_size, best_size))
                gain = round_statistics.gain(best_size, log_ratios)
            enough = len(self.of(batch_size)) >= MIN_REPEATS
            if self._budget.is_over or (enough and (gain is None or gain.decided)):
                break
        return gain

    def time_side_by_side(self, several: Sequence[Trial], budget: Budget) -> int:
        """Times the sizes of timed trials in one window; the rounds of each, 0 where they were too few.

        Only figures of one window compare, because the speed of the machine changes between windows.
        """
        done = 0
        # A round is a step to warm up, and at least one more.
        round_seconds = 2 * sum(median(trial.step_seconds) for trial in several)
        while len(several) > 1 and done < MAX_REPEATS:
            needed = max(done + 1, MIN_REPEATS)
            if round_seconds * needed > budget.total_seconds:
                break
            if any(self._time(trial.batch_size) is not None for trial in several):
                return 0
            done += 1
            round_seconds = budget.spent_seconds / done
        return done if done >= MIN_REPEATS else 0

    def _time(self, batch_size: int) -> messages.Tried | None:
        """Times one round; the failure where it failed."""
        if self.isolated and not self._engine.fresh:
            self._engine.renew()
        reply = self._engine.time_round(batch_size, self._budget.trial_seconds)
        if isinstance(reply, messages.Tried):
            return reply
        self._timed.setdefault(batch_size, []).append(reply)
        return None

    def _log_ratio(self, batch_size: int, other_size: int) -> float:
        """The logarithm of the ratio of two throughputs, from the latest round of each size."""
        step_seconds = self._timed[batch_size][-1].step_seconds
        other_seconds = self._timed[other_size][-1].step_seconds
        return log(batch_size / step_seconds) - log(other_size / other_seconds)

"""Timing rounds of sizes that passed: pairs of two sizes in turns, and several sizes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from autobatch.decision import round_statistics
from autobatch.decision.constants import IMPLAUSIBLE_RATIO, MAX_REPEATS, MIN_REPEATS
from autobatch.decision.value_of_measurement import pair_saving, round_error, window_saving
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.budget import Budget
from autobatch.records.trial import Gain


class Rounds:
    """All timing rounds of a search, by batch size. Each is made as long as its value exceeds its time.

    `isolated`: each round runs in a fresh process, because the training keeps state that can't be put back.
    `horizon_seconds`: of the training that they save time for.
    """

    def __init__(self, engine: Engine, budget: Budget, horizon_seconds: float) -> None:
        self._engine = engine
        self._budget = budget
        self._timed: dict[int, list[messages.Timed]] = {}
        self._seconds: dict[int, float] = {}
        self.isolated = False
        self.horizon_seconds = horizon_seconds

    def of(self, batch_size: int) -> list[messages.Timed]:
        """The rounds of a size, in their order."""
        return self._timed.get(batch_size, [])

    def seconds_of(self, batch_size: int) -> float:
        """Wall time of the last round of a size."""
        return self._seconds[batch_size]

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
                gain = round_statistics.gain(best_size, log_ratios, self._error)
            if self._budget.is_over or self._is_enough(batch_size, gain, log_ratios):
                break
        return gain

    def _is_enough(self, batch_size: int, gain: Gain | None, log_ratios: Sequence[float]) -> bool:
        """True where another pair is not worth its time. A collapse of the throughput needs evidence."""
        if gain is None:
            return len(self.of(batch_size)) >= MIN_REPEATS
        if IMPLAUSIBLE_RATIO * gain.ratio < 1 and gain.rounds < MIN_REPEATS:
            return False
        pair_seconds = self.seconds_of(batch_size) + self.seconds_of(gain.over)
        return pair_saving(log_ratios, self._error) * self.horizon_seconds < pair_seconds

    @property
    def _error(self) -> float:
        """The error of ln of the time of a single round."""
        return round_error([timed.step_seconds for timed in rounds] for rounds in self._timed.values())

    def time_side_by_side(
        self, sizes: Sequence[int], current_size: int | None, budget: Budget, most_seconds: float
    ) -> int:
        """Times the sizes in one window; the rounds of each, 0 where the budget has too few.

        Only figures of one window compare, because the speed of the machine changes between windows. Where
        more than the fewest rounds are made, all take `most_seconds` at most.
        """
        done = 0
        window_seconds = sum(self.seconds_of(size) for size in sizes)
        if len(sizes) == 1 and len(self.of(sizes[0])) >= MIN_REPEATS:
            return 0
        while sizes and done < MAX_REPEATS:
            needed = max(done + 1, MIN_REPEATS)
            is_extra = done >= MIN_REPEATS
            most = min(budget.total_seconds, most_seconds) if is_extra else budget.total_seconds
            if window_seconds * needed > most:
                break
            if is_extra and self._is_settled(sizes, current_size, done, window_seconds):
                break
            if any(self._time(size) is not None for size in sizes):
                return 0
            done += 1
            window_seconds = budget.spent_seconds / done
        return done if done >= MIN_REPEATS else 0

    def _is_settled(self, sizes: Sequence[int], current_size: int | None, done: int, seconds: float) -> bool:
        """True where another round of each size is not worth so many seconds."""
        times = {size: [timed.step_seconds for timed in self.of(size)[-done:]] for size in sizes}
        return window_saving(times, current_size, self._error) * self.horizon_seconds < seconds

    def _time(self, batch_size: int) -> messages.Tried | None:
        """Times one round; the failure where it failed."""
        if self.isolated and not self._engine.fresh:
            self._engine.renew()
        begin = self._budget.spent_seconds
        reply = self._engine.time_round(batch_size, self._budget.trial_seconds)
        self._seconds[batch_size] = self._budget.spent_seconds - begin
        if isinstance(reply, messages.Tried):
            return reply
        self._timed.setdefault(batch_size, []).append(reply)
        return None

    def _log_ratio(self, batch_size: int, other_size: int) -> float:
        """The logarithm of the ratio of two throughputs, from the latest round of each size."""
        step_seconds = self._timed[batch_size][-1].step_seconds
        other_seconds = self._timed[other_size][-1].step_seconds
        return log(batch_size / step_seconds) - log(other_size / other_seconds)

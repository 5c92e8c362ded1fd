"""The climb: asks the search what to try, asks the engine to try it, and keeps what came out."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log
from statistics import median

from autobatch import search, timing
from autobatch.errors import AutobatchError, UsageError
from autobatch.probe import verdicts, wire
from autobatch.probe.measure import FULL_STEPS
from autobatch.probe.oom import Cause
from autobatch.probe.runner import Engine, Opened
from autobatch.records import Curve, LimitedBy, Limits, Outcome, Recommendation, Trial

# Fresh processes that a memory ceiling has to survive, and steps in each: on CPU the heap's layout varies.
_VERIFY_RUNS = 3
_VERIFY_STEPS = 10
# Sizes within this of the best throughput are timed once more, side by side, before one is chosen.
_CONTENDER_RATIO = 0.85
_FINAL_ROUNDS = 3


class Observer:
    """Hears of everything as it happens. The default hears nothing."""

    def opened(self, opened: Opened) -> None:
        """The worker is ready."""

    def trying(self, batch_size: int) -> None:
        """A size is about to be tried."""

    def tried(self, trial: Trial) -> None:
        """A size was tried; the same size may come again with more rounds or a changed outcome."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a climb, with what was measured; None where nothing was."""

    def __init__(self, curve: Curve | None) -> None:
        super().__init__()
        self.curve = curve
        self.recommendation: Recommendation | None = None


class Climb:
    """One search on one engine. `trials` always holds everything measured so far."""

    def __init__(self, engine: Engine, limits: Limits, observer: Observer | None = None) -> None:
        self._engine = engine
        self._limits = limits
        self._observer = observer or Observer()
        self._opened: Opened | None = None
        self._rounds: dict[int, list[wire.Timed]] = {}
        self._dataset_size: int | None = None
        self._first_error: AutobatchError | None = None
        self.trials: list[Trial] = []
        self.warnings: list[str] = []

    def run(self) -> Curve:
        """Climbs to the end and returns the curve.

        Raises Interrupted on Ctrl-C, and AutobatchError (with `trials`) where the user has to act.
        """
        try:
            self._opened = self._engine.open()
            self._dataset_size = self._opened.workload.dataset_size
            self._check_limits()
            self._observer.opened(self._opened)
            stop, verified = self._climb_and_verify()
            self._measure_extras()
            self._time_contenders()
            return self._curve(stop, verified)
        except KeyboardInterrupt:
            raise Interrupted(self._partial_curve()) from None
        except AutobatchError as error:
            error.trials = tuple(self.trials)
            raise

    @property
    def remaining_seconds(self) -> float:
        return self._limits.budget_seconds - self._engine.busy_seconds

    def _climb_and_verify(self) -> tuple[search.Stop, bool]:
        while True:
            stop = self._climb()
            if stop.limited_by is not LimitedBy.MEMORY:
                return stop, False
            if self._verify():
                return stop, True
            if self.remaining_seconds <= 0:
                return stop, False

    def _climb(self) -> search.Stop:
        while True:
            move = search.next_move(self.trials, self._limits, self._dataset_size)
            if isinstance(move, search.Stop):
                self._require_success()
                return move
            if self.remaining_seconds <= 0:
                self._require_success()
                return search.Stop(LimitedBy.BUDGET, self._budget_detail(move.batch_size))
            self._try(move)

    def _try(self, move: search.Try) -> None:
        size = move.batch_size
        self._observer.trying(size)
        trial = self._attempt(size, FULL_STEPS)
        if trial is None:
            return
        if trial.ok and move.timed:
            trial = self._compare(trial)
        self._keep(trial)

    def _attempt(self, size: int, steps: int) -> Trial | None:
        """A try as a trial; None where a stream ended below the size, which is then the data set's."""
        tried = self._engine.try_out(size, max(self.remaining_seconds, 0.1), steps)
        if tried.error is not None and tried.error.code == "stream_ended":
            self._dataset_size = int(tried.detail)
            self._check_limits()
            return None
        if tried.outcome is Outcome.OK and not tried.finite:
            self._not_finite(size)
        outcome = self._judge(tried)
        if outcome is Outcome.OK and tried.optimizer_steps < tried.steps:
            made = f"{tried.optimizer_steps} optimizer steps in {tried.steps} steps"
            self._warn(f"at batch size {size} the loop made {made}")
        return self._trial(tried, outcome)

    def _judge(self, tried: wire.Tried) -> Outcome:
        """The outcome, after telling suspected from certain; raises the user's own errors."""
        if tried.outcome is not Outcome.FAILED:
            return tried.outcome
        passed = search.largest_passed(self.trials)
        below = passed is not None and passed < tried.batch_size
        if tried.cause is Cause.SUSPECTED and below:
            return Outcome.OUT_OF_MEMORY
        if tried.cause is Cause.USER_ERROR and passed is not None and tried.error is not None:
            raise tried.error.rebuilt()
        if passed is None and tried.error is not None:
            if self._first_error is not None:
                # The smallest size failed and its double as well: no floor, but an error of the user's.
                raise self._first_error
            self._first_error = tried.error.rebuilt()
            if tried.error.code != "step_fails":
                raise self._first_error
        return Outcome.FAILED

    def _trial(self, tried: wire.Tried, outcome: Outcome) -> Trial:
        steps = () if tried.step_seconds is None else (tried.step_seconds,)
        trial = Trial(
            batch_size=tried.batch_size,
            outcome=outcome,
            step_seconds=steps,
            load_seconds=tried.load_seconds,
            peak_bytes=tried.peak_bytes,
            reserved_bytes=tried.reserved_bytes,
            utilisation=tried.utilisation,
            samples=tried.steps * tried.batch_size,
            optimizer_steps=tried.optimizer_steps,
            phase=tried.phase,
            detail=tried.detail,
        )
        return self._with_rates(trial) if outcome is Outcome.OK else trial

    def _compare(self, trial: Trial) -> Trial:
        """The trial with its throughput from rounds, paired with rounds of the best size so far."""
        best = self._best()
        log_ratios: list[float] = []
        found = None
        for _ in range(timing.MAX_ROUNDS):
            failure = self._round(trial.batch_size) or (self._round(best.batch_size) if best else None)
            if failure is not None:
                if failure.batch_size != trial.batch_size:
                    self._keep(trial)
                return self._trial(failure, self._judge(failure))
            if best is not None:
                log_ratios.append(self._log_ratio(trial.batch_size, best.batch_size))
                found = timing.gain(best.batch_size, log_ratios)
            done = len(self._rounds[trial.batch_size])
            if self.remaining_seconds <= 0 or (
                done >= timing.MIN_ROUNDS and (found is None or found.decided)
            ):
                break
        return replace(self._retimed(trial), gain=found)

    def _round(self, size: int) -> wire.Tried | None:
        """Times one round of a size; the failure where there was one."""
        reply = self._engine.time_round(size, max(self.remaining_seconds, 0.1))
        if isinstance(reply, wire.Tried):
            return reply
        self._rounds.setdefault(size, []).append(reply)
        return None

    def _log_ratio(self, size: int, other: int) -> float:
        mine, theirs = self._rounds[size][-1], self._rounds[other][-1]
        return log(size / mine.step_seconds) - log(other / theirs.step_seconds)

    def _retimed(self, trial: Trial) -> Trial:
        rounds = self._rounds.get(trial.batch_size, [])
        if not rounds:
            return trial
        usages = [one.utilisation for one in rounds if one.utilisation is not None]
        steps = sum(one.steps for one in rounds)
        return self._with_rates(
            replace(
                trial,
                step_seconds=tuple(one.step_seconds for one in rounds),
                load_seconds=median(one.load_seconds for one in rounds),
                utilisation=median(usages) if usages else trial.utilisation,
                samples=FULL_STEPS * trial.batch_size + steps * trial.batch_size,
                optimizer_steps=FULL_STEPS + steps,
            )
        )

    def _with_rates(self, trial: Trial) -> Trial:
        rate, interval = timing.throughput(trial.batch_size, trial.step_seconds)
        steps = None if self._dataset_size is None else ceil(self._dataset_size / trial.batch_size)
        return replace(
            trial,
            samples_per_second=rate,
            samples_per_second_interval=interval,
            steps_per_epoch=steps,
            epoch_seconds=None if steps is None else steps * median(trial.step_seconds),
        )

    def _verify(self) -> bool:
        """True if the ceiling survives in fresh processes; where it does not, that is its last word."""
        size = search.largest_passed(self.trials)
        assert size is not None
        for _ in range(_VERIFY_RUNS):
            if self.remaining_seconds <= 0:
                return False
            self._observer.trying(size)
            self._engine.renew()
            trial = self._attempt(size, _VERIFY_STEPS)
            if trial is not None and not trial.ok:
                self._keep(trial)
                return False
        return True

    def _measure_extras(self) -> None:
        """The sizes that the answer is compared with: the user's own, and what a target can be made of."""
        assert self._opened is not None
        present = self._opened.workload.batch_size
        for size in search.extra_sizes(self.trials, self._limits, present):
            if self.remaining_seconds > 0:
                self._try(search.Try(size))

    def _time_contenders(self) -> None:
        """Times the sizes near the best throughput side by side, so that drift can't choose among them."""
        best = self._best()
        if best is None or best.samples_per_second is None:
            return
        near = [
            trial
            for trial in search.latest(self.trials).values()
            if trial.ok
            and len(trial.step_seconds) >= timing.MIN_ROUNDS
            and (trial.samples_per_second or 0) >= best.samples_per_second * _CONTENDER_RATIO
        ]
        if len(near) < 2:
            return
        for _ in range(_FINAL_ROUNDS):
            for trial in near:
                if self.remaining_seconds <= 0 or self._round(trial.batch_size) is not None:
                    break
        for trial in near:
            position = max(i for i, one in enumerate(self.trials) if one is trial)
            self.trials[position] = self._retimed(trial)

    def _best(self) -> Trial | None:
        """The size of the highest throughput among those that were timed in rounds."""
        timed = [
            t
            for t in search.latest(self.trials).values()
            if t.ok and len(t.step_seconds) >= timing.MIN_ROUNDS
        ]
        return max(timed, key=lambda trial: trial.samples_per_second or 0.0, default=None)

    def _keep(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._observer.tried(trial)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _not_finite(self, size: int) -> None:
        if not self.trials:
            raise verdicts.not_finite(size)
        self._warn(f"the loss was not finite at batch size {size}")

    def _check_limits(self) -> None:
        cap, reason = search.size_cap(self._limits, self._dataset_size)
        if cap < self._limits.smallest:
            raise verdicts.nothing_to_try(self._limits, cap, reason, self._dataset_size)

    def _require_success(self) -> None:
        if search.largest_passed(self.trials) is not None:
            return
        if not self.trials:
            raise UsageError(
                "the time budget ended before the first trial", code="no_budget", hint="raise `--budget`"
            )
        if self._first_error is not None and self.trials[-1].outcome is Outcome.FAILED:
            # No larger size may be tried, so that it can't be told from a floor: the error is the fact.
            raise self._first_error
        assert self._opened is not None
        raise verdicts.nothing_passed(self.trials, self._opened.device)

    def _budget_detail(self, next_size: int) -> str:
        return f"{self._limits.budget_seconds:g} s were over before batch size {next_size}"

    def _curve(self, stop: search.Stop, verified: bool) -> Curve:
        assert self._opened is not None
        return Curve(
            trials=tuple(self.trials),
            ceiling=search.ceiling_of(self.trials, stop, verified=verified),
            workload=replace(self._opened.workload, dataset_size=self._dataset_size),
            device=self._opened.device,
            warnings=(*self.warnings, *verdicts.doubts(self.trials, self._opened.device)),
        )

    def _partial_curve(self) -> Curve | None:
        if self._opened is None or search.largest_passed(self.trials) is None:
            return None
        self._warn("interrupted: only the sizes shown were measured")
        return self._curve(search.Stop(LimitedBy.BUDGET, "interrupted"), verified=False)

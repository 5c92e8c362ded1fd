"""The climb: asks the search what to try, asks the engine to try it, and keeps what came out."""

from __future__ import annotations

from dataclasses import replace
from math import log
from statistics import median

from autobatch.decision import round_statistics, search
from autobatch.decision.constants import MAX_ROUNDS, MIN_ROUNDS
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.scaling import share_of_dataset
from autobatch.devices.oom import Cause
from autobatch.engines import messages
from autobatch.engines.base import Engine, Opened
from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement import diagnosis, trials
from autobatch.measurement.verification import Verification
from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial

# Below this share of the best throughput, memory must have spilled to somewhere slower: no computation is.
_COLLAPSE_RATIO = 1 / 3
# That far below the limit nothing can have spilled.
_COLLAPSE_SHARE = 0.5
# Sizes within this of the best throughput are timed once more, side by side, before one is chosen.
_CONTENDER_RATIO = 0.75
_FINAL_ROUNDS = 7
# And so is all that may be the answer, if that takes no more than this share of the budget.
_FINAL_SHARE = 0.2
# Those below this share of the present size, or of the usual one, stay out of it.
_LEAST_SHARE = 0.25


class Observer:
    """Hears of everything as it happens. The default hears nothing."""

    def opened(self, opened: Opened) -> None:
        """The worker is ready."""

    def trying(self, batch_size: int) -> None:
        """A size is about to be tried."""

    def tried(self, trial: Trial) -> None:
        """A size was tried; the same size may come again with more rounds or a changed outcome."""

    def checking(self, what: str) -> None:
        """The climb is over; `what` the generalization check is about to do."""


class Climb:
    """One search on one engine. `trials` always holds everything measured so far."""

    def __init__(
        self, engine: Engine, limits: Limits, observer: Observer | None = None, share: float = 1.0
    ) -> None:
        """`share` of the limits' budget is the climb's."""
        self._engine = engine
        self._budget_seconds = share * limits.budget_seconds
        self._limits = limits
        self._observer = observer or Observer()
        self._opened: Opened | None = None
        self._tries: dict[int, Trial] = {}
        self._rounds: dict[int, list[messages.Timed]] = {}
        self._dataset_size: int | None = None
        self._ranks = 1
        self._first_error: AutobatchError | None = None
        self._errors: dict[int, AutobatchError] = {}
        self._memory = Memory()
        self.trials: list[Trial] = []
        self.warnings: list[str] = []

    def run(self) -> Curve:
        """Climbs to the end and returns the curve.

        Raises Interrupted on Ctrl-C, and AutobatchError (with `trials`) where the user has to act.
        """
        try:
            self._opened = self._engine.open()
            self._dataset_size = self._opened.workload.dataset_size
            self._ranks = self._opened.world_size
            self._check_limits()
            device = self._opened.device
            self._memory = Memory(limit_bytes=device.limit_bytes, heap=device.kind == "cpu")
            self._observer.opened(self._opened)
            ceiling = self._ceiling()
            self._measure_extras(ceiling.batch_size)
            self._time_contenders(ceiling.batch_size)
            return self._curve(ceiling)
        except KeyboardInterrupt:
            raise Interrupted(self._partial_curve()) from None
        except AutobatchError as error:
            error.trials = tuple(self.trials)
            raise

    @property
    def remaining_seconds(self) -> float:
        return self._budget_seconds - self._engine.busy_seconds

    @property
    def _share(self) -> int | None:
        """The samples of an epoch, or one rank's share of them."""
        return share_of_dataset(self._dataset_size, self._ranks)

    def _climb(self) -> search.Stop:
        while True:
            move = search.next_move(self.trials, self._limits, self._share, self._memory)
            if isinstance(move, search.Stop):
                self._require_success()
                return move
            if self.remaining_seconds <= 0:
                self._require_success()
                return search.Stop(LimitedBy.BUDGET, self._budget_detail(move))
            if isinstance(move, search.Trace):
                self._trace()
            else:
                self._try(move)

    def _trace(self) -> None:
        traced = self._engine.trace_memory()
        self._memory = replace(self._memory, lines=traced.lines)
        if not traced.lines:
            self._warn(f"a training step can't be traced, so the ceiling takes more tries: {traced.detail}")
        elif traced.detail:
            self._warn(f"what memory a step takes was predicted from a trace: {traced.detail}")

    def _try(self, move: search.Try) -> None:
        size = move.batch_size
        self._observer.trying(size)
        heap = self._memory.heap
        if heap and not move.timed and not self._engine.fresh:
            self._engine.renew()
        fresh = self._engine.fresh
        trial = self._attempt(size, FULL_STEPS)
        if trial is None:
            return
        failed = trial.outcome is Outcome.OUT_OF_MEMORY
        if heap and failed and not fresh and self.remaining_seconds > 0:
            # The heap of a process that trained at other sizes is fragmented: a fresh one holds more.
            trial = self._attempt(size, FULL_STEPS) or trial
        best = self._best()
        if trial.ok and (move.timed or self._looks_collapsed(trial, best)):
            trial = self._compare(trial, best)
        self._keep(trial)

    def _looks_collapsed(self, trial: Trial, best: Trial | None) -> bool:
        """True if the rough throughput is so low that only rounds can tell whether memory spills."""
        rate, high = trial.samples_per_second, best.samples_per_second if best else None
        return rate is not None and high is not None and rate < _COLLAPSE_RATIO * high

    def _attempt(self, size: int, steps: int) -> Trial | None:
        """A try as a trial; None where a stream ended below the size, which is then the data set's."""
        tried = self._engine.try_out(size, max(self.remaining_seconds, 0.1), steps)
        if tried.error is not None and tried.error.code == "stream_ended":
            self._dataset_size = int(tried.detail)
            self._check_limits()
            return None
        if tried.outcome is Outcome.OK and not tried.finite:
            self._not_finite(size)
        counted = tried.optimizer_steps + tried.skipped_steps
        if tried.outcome is Outcome.OK and counted == 0:
            raise diagnosis.no_optimizer_step(tried)
        if tried.outcome is Outcome.OK and counted < tried.steps:
            self._warn("the training step does not step its optimizer every time: peak memory may come later")
        trial = self._trial(tried, self._judge(tried))
        if trial.ok:
            self._tries[size] = trial
        return trial

    def _judge(self, tried: messages.Tried) -> Outcome:
        """The outcome, after telling suspected from certain; raises the user's own errors."""
        if tried.outcome is not Outcome.FAILED:
            return tried.outcome
        passed = search.largest_passed(self.trials)
        error = None if tried.error is None else tried.error.rebuilt()
        if tried.cause is Cause.SUSPECTED and passed is not None and passed < tried.batch_size:
            return Outcome.OUT_OF_MEMORY
        if passed is None:
            self._first_error = self._first_error or error
        of_size = error is None or error.code == "step_fails"
        too_high = len(search.latest(self.trials)) + 1 >= search.FLOOR_TRIES
        if self._first_error is not None and passed is None and (too_high or not of_size):
            # No floor is as high as that: it is an error of the user's.
            raise self._first_error
        if passed is not None and error is not None and tried.cause in (Cause.USER_ERROR, Cause.PEER):
            below = tried.batch_size - self._limits.multiple_of
            self._errors[tried.batch_size] = error
            if search.persists(self.trials, tried.batch_size, self._limits.multiple_of) or not of_size:
                raise self._errors.get(below, error)
        return Outcome.FAILED

    def _trial(self, tried: messages.Tried, outcome: Outcome) -> Trial:
        return trials.from_try(tried, outcome, self._share)

    def _compare(self, trial: Trial, best: Trial | None) -> Trial:
        """The trial with its throughput from rounds, paired with rounds of the best size so far."""
        log_ratios: list[float] = []
        found = None
        for _ in range(MAX_ROUNDS):
            failure = self._round(trial.batch_size) or (self._round(best.batch_size) if best else None)
            if failure is not None:
                return self._failed_round(trial, failure)
            if best is not None:
                log_ratios.append(self._log_ratio(trial.batch_size, best.batch_size))
                found = round_statistics.gain(best.batch_size, log_ratios)
            done = len(self._rounds[trial.batch_size])
            if self.remaining_seconds <= 0 or (done >= MIN_ROUNDS and (found is None or found.decided)):
                break
        return self._unless_collapsed(replace(self._retimed(trial), gain=found))

    def _unless_collapsed(self, trial: Trial) -> Trial:
        """The trial, or a failure in its place where its throughput fell as no computation makes it fall."""
        gain, limit_bytes = trial.gain, self._memory.limit_bytes
        roomy = limit_bytes is not None and (trial.peak_bytes or 0) < _COLLAPSE_SHARE * limit_bytes
        if roomy or gain is None or not gain.decided or gain.high > _COLLAPSE_RATIO:
            return trial
        told = f"throughput collapsed to {gain.ratio:.0%} of that at {gain.over:,}: memory spills over"
        return replace(trial, outcome=Outcome.OUT_OF_MEMORY, detail=told, phase="timing")

    def _failed_round(self, trial: Trial, failure: messages.Tried) -> Trial:
        outcome = self._judge(failure)
        if self._memory.heap and outcome is Outcome.OUT_OF_MEMORY:
            # Rounds of two sizes in one process fragment its heap; the size itself has passed.
            return trial
        if failure.batch_size != trial.batch_size:
            self._keep(trial)
        return self._trial(failure, outcome)

    def _round(self, size: int) -> messages.Tried | None:
        """Times one round of a size; the failure where there was one."""
        reply = self._engine.time_round(size, max(self.remaining_seconds, 0.1))
        if isinstance(reply, messages.Tried):
            return reply
        self._rounds.setdefault(size, []).append(reply)
        return None

    def _log_ratio(self, size: int, other: int) -> float:
        mine, theirs = self._rounds[size][-1], self._rounds[other][-1]
        return log(size / mine.step_seconds) - log(other / theirs.step_seconds)

    def _retimed(self, trial: Trial, last: int = 0) -> Trial:
        rounds = self._rounds.get(trial.batch_size, [])
        timed = trials.from_rounds(self._tries[trial.batch_size], rounds, self._share, last)
        return replace(timed, gain=trial.gain)

    def _ceiling(self) -> Ceiling:
        """The largest size that holds. One that memory limits has to hold in fresh processes."""
        while True:
            stop = self._climb()
            size = search.largest_passed(self.trials)
            assert size is not None
            verified = False
            if stop.limited_by is LimitedBy.MEMORY:
                cap, _ = search.size_cap(self._limits, self._share)
                verification = Verification(self._attempt_fresh, self._memory, self._limits)
                found = verification.run(self.trials, size, cap)
                for trial in trials.one_a_size(found.trials):
                    self._keep(trial)
                if found.failed and self.remaining_seconds > 0:
                    continue
                self._require_success()
                verified = found.batch_size is not None
                roomy = [trial for trial in self.trials if trial.batch_size <= found.wanted]
                size = found.batch_size or search.largest_passed(roomy) or size
            return Ceiling(batch_size=size, limited_by=stop.limited_by, verified=verified, detail=stop.detail)

    def _attempt_fresh(self, size: int, steps: int, last: bool) -> Trial | None:
        """A try in a process that has trained nothing before; None where the time is over.

        Sessions of one worker share the layout of its heap: where that counts, the worker is a new one, and
        the next is started behind it unless this is the `last`.
        """
        if self.remaining_seconds <= 0:
            return None
        self._observer.trying(size)
        self._engine.renew(worker=self._memory.heap)
        if self._memory.heap and not last:
            self._engine.prepare()
        trial = self._attempt(size, steps)
        if trial is not None and trial.outcome is Outcome.TIMEOUT and self.remaining_seconds <= 0:
            return None
        return None if trial is None else replace(trial, confirmed=trial.ok)

    def _measure_extras(self, ceiling: int) -> None:
        """The sizes that the answer is compared with: the user's own, and what a target can be made of."""
        assert self._opened is not None
        current = self._opened.workload.batch_size
        for size in search.extra_sizes(self.trials, self._limits, current, ceiling):
            if self.remaining_seconds > 0:
                self._try(search.Try(size))

    def _time_contenders(self, ceiling: int) -> None:
        """Times the sizes that may be the answer side by side, so that drift can't choose among them.

        Those near the best throughput; for a check also all that it may choose, where that is cheap.
        """
        best, timed = self._best(), [trial for trial in self._timed() if trial.batch_size <= ceiling]
        if best is None or best.samples_per_second is None:
            return
        floor = best.samples_per_second * _CONTENDER_RATIO
        near = [trial for trial in timed if (trial.samples_per_second or 0.0) >= floor]
        answers = [trial for trial in timed if trial in near or self._may_be_checked(trial)]
        share = min(_FINAL_SHARE * self._budget_seconds, self.remaining_seconds)
        if len(answers) == len(near) or not self._time_side_by_side(answers, share):
            self._time_side_by_side(near, self.remaining_seconds)

    def _may_be_checked(self, trial: Trial) -> bool:
        """Far below the present size there is hardly ever an answer."""
        assert self._opened is not None
        limits, least = self._limits, self._opened.workload.batch_size or search.USUAL_BATCH_SIZE
        return limits.check and not limits.asks_for_size and trial.batch_size >= _LEAST_SHARE * least

    def _time_side_by_side(self, several: list[Trial], seconds: float) -> bool:
        """True if each size got enough rounds in one window, since only such figures compare.

        They are its times from then on.
        """
        begin, done = self._engine.busy_seconds, 0
        # A round is a step to warm up, and one or more.
        seconds_a_round = 2 * sum(median(trial.step_seconds) for trial in several)
        while len(several) > 1 and done < _FINAL_ROUNDS:
            if seconds_a_round * max(done + 1, MIN_ROUNDS) > seconds:
                break
            if any(self._round(trial.batch_size) is not None for trial in several):
                return False
            done += 1
            seconds_a_round = (self._engine.busy_seconds - begin) / done
        if done < MIN_ROUNDS:
            return False
        for trial in several:
            position = max(i for i, one in enumerate(self.trials) if one is trial)
            self.trials[position] = self._retimed(trial, last=done)
        return True

    def _timed(self) -> list[Trial]:
        """The sizes that passed and were timed in rounds."""
        found = search.latest(self.trials).values()
        return [trial for trial in found if trial.ok and len(trial.step_seconds) >= MIN_ROUNDS]

    def _best(self) -> Trial | None:
        """The size of the highest throughput among those that were timed in rounds."""
        return max(self._timed(), key=lambda trial: trial.samples_per_second or 0.0, default=None)

    def _keep(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._observer.tried(trial)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _not_finite(self, size: int) -> None:
        if not self.trials:
            raise diagnosis.not_finite(size)
        self._warn(f"the loss was not finite at batch size {size}")

    def _check_limits(self) -> None:
        cap, reason = search.size_cap(self._limits, self._share)
        if cap < self._limits.smallest:
            raise diagnosis.nothing_to_try(self._limits, cap, reason, self._dataset_size)

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
        last, device = self.trials[-1], self._opened.device
        predicted = self._engine.trace_memory(without_data=True).lines if diagnosis.is_too_large(last) else ()
        raise diagnosis.nothing_passed(self.trials, device, predicted)

    def _budget_detail(self, move: search.Try | search.Trace) -> str:
        before = f"batch size {move.batch_size}" if isinstance(move, search.Try) else "the next size"
        return f"{self._budget_seconds:g} s were over before {before}"

    def _curve(self, ceiling: Ceiling) -> Curve:
        assert self._opened is not None
        return Curve(
            trials=tuple(self.trials),
            ceiling=ceiling,
            workload=replace(
                self._opened.workload, dataset_size=self._dataset_size, sizes=self._engine.sizes
            ),
            device=self._opened.device,
            warnings=(
                *self.warnings,
                *diagnosis.doubts(self.trials, self._opened.device),
                *diagnosis.uncounted(self._engine.compile_seconds),
            ),
            world_size=self._ranks,
        )

    def _partial_curve(self) -> Curve | None:
        largest = search.largest_passed(self.trials)
        if self._opened is None or largest is None:
            return None
        self._warn("interrupted: only the sizes shown were measured")
        return self._curve(
            Ceiling(batch_size=largest, limited_by=LimitedBy.BUDGET, verified=False, detail="interrupted")
        )

"""The climb: asks the search for the next size, tries it on the engine, and keeps the result."""

from __future__ import annotations

from dataclasses import replace

from autobatch.decision import search
from autobatch.decision.constants import (
    CONTENDER_RATIO,
    IMPLAUSIBLE_RATIO,
    LEAST_CANDIDATE_RATIO,
    STAGE_SHARE,
    USUAL_BATCH_SIZE,
)
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.scaling import share_of_dataset
from autobatch.decision.trial_set import TrialSet, throughput
from autobatch.devices.oom import Cause
from autobatch.engines import messages
from autobatch.engines.base import Engine, Opened
from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement import diagnosis, trials
from autobatch.measurement.budget import Budget
from autobatch.measurement.rounds import Rounds
from autobatch.measurement.verification import verify
from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.limits import Limits
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial


class Observer:
    """Hears of everything as it happens. The default does nothing."""

    def opened(self, opened: Opened) -> None:
        """The worker is ready."""

    def trying(self, batch_size: int) -> None:
        """A size is about to be tried."""

    def tried(self, trial: Trial) -> None:
        """A size was tried; the same size may come again with more rounds or a changed outcome."""

    def checking(self, what: str) -> None:
        """The climb is over; `what` names the measurement that begins."""


class Climb:
    """The climb of one search. `trial_set` holds everything measured so far."""

    def __init__(
        self, engine: Engine, limits: Limits, observer: Observer | None = None, budget: Budget | None = None
    ) -> None:
        """`budget`: the climb's own; None takes the whole budget of the limits."""
        self._engine = engine
        self._limits = limits
        self._observer = observer or Observer()
        self._budget = budget or Budget.of(limits, engine)
        self._rounds = Rounds(engine, self._budget)
        self._opened: Opened | None = None
        self._tries: dict[int, Trial] = {}
        self._dataset_size: int | None = None
        self._first_error: AutobatchError | None = None
        self._errors: dict[int, AutobatchError] = {}
        self._memory = Memory()
        self.trial_set = TrialSet()
        self.warnings: list[str] = []

    @property
    def trials(self) -> tuple[Trial, ...]:
        return self.trial_set.trials

    def run(self) -> Curve:
        """Climbs to the end and returns the curve. Raises AutobatchError, with `trials`, for the user."""
        try:
            self._opened = self._engine.open()
            self._dataset_size = self._opened.workload.dataset_size
            self._check_limits()
            device = self._opened.device
            self._memory = Memory(limit_bytes=device.limit_bytes, heap=device.kind == "cpu")
            self._observer.opened(self._opened)
            ceiling = self._ceiling()
            self._measure_extras(ceiling.batch_size)
            self._time_contenders(ceiling.batch_size)
            return self._curve(ceiling)
        except AutobatchError as error:
            error.trials = self.trials
            raise

    def partial_curve(self) -> Curve | None:
        """The curve of an interrupted climb; None where no size has passed."""
        largest = self.trial_set.largest_passed
        if self._opened is None or largest is None:
            return None
        self._warn("interrupted: only the sizes shown were measured")
        return self._curve(
            Ceiling(batch_size=largest, limited_by=LimitedBy.BUDGET, verified=False, detail="interrupted")
        )

    @property
    def _samples_of_rank(self) -> int | None:
        """The samples of an epoch, or one rank's share of them."""
        return share_of_dataset(self._dataset_size, self._engine.ranks)

    def _ceiling(self) -> Ceiling:
        """The largest size that may be used. If memory limits it, it has passed in a fresh process.

        A size that fails there bounds the climb, which goes on below it.
        """
        while True:
            stop = self._climb()
            size = self.trial_set.largest_passed
            assert size is not None
            if stop.limited_by is not LimitedBy.MEMORY:
                return Ceiling(
                    batch_size=size, limited_by=stop.limited_by, verified=False, detail=stop.detail
                )
            result = verify(
                self._attempt_fresh, self.trial_set, self._limits, self._samples_of_rank, self._memory
            )
            if result.trial is not None:
                self._keep(result.trial)
            if result.failed and not self._budget.is_over:
                continue
            self._require_success()
            size = self.trial_set.largest_passed or size
            roomy = TrialSet(self.trials, min(size, result.batch_size)).usable
            return Ceiling(
                batch_size=roomy[-1].batch_size if roomy else size,
                limited_by=stop.limited_by,
                verified=result.verified,
                detail=stop.detail,
            )

    def _climb(self) -> search.Stop:
        while True:
            move = search.next_move(self.trial_set, self._limits, self._samples_of_rank, self._memory)
            if isinstance(move, search.Stop):
                self._require_success()
                return move
            if self._budget.is_over and not self._owes_a_size:
                self._require_success()
                return search.Stop(LimitedBy.BUDGET, self._budget_detail(move))
            if isinstance(move, search.Trace):
                self._trace()
            else:
                self._try(move)

    @property
    def _owes_a_size(self) -> bool:
        """True before the first success, which may end after the budget: the start-up may have taken it."""
        if self.trial_set.largest_passed is not None:
            return False
        last = self.trials[-1] if self.trials else None
        return last is None or (
            last.outcome is Outcome.FAILED and search.may_be_floor(last.batch_size, self._limits)
        )

    def _trace(self) -> None:
        traced = self._engine.trace_memory()
        self._memory = replace(self._memory, lines=traced.lines)
        if not traced.lines:
            self._warn(f"a training step can't be traced, so the ceiling takes more tries: {traced.detail}")
        elif traced.detail:
            self._warn(f"what memory a step takes was predicted from a trace: {traced.detail}")

    def _try(self, move: search.Try) -> None:
        self._observer.trying(move.batch_size)
        # A process that trained at other sizes has gaps in its heap, so that it takes more at this one.
        if self._memory.heap and not move.timed and not self._engine.fresh:
            self._engine.renew()
        fresh = self._engine.fresh
        trial = self._attempt(move.batch_size, FULL_STEPS)
        if trial is None:
            return
        if (
            self._memory.heap
            and not fresh
            and trial.outcome is Outcome.OUT_OF_MEMORY
            and not self._budget.is_over
        ):
            # A size that ran out of memory in such a process may fit in a fresh one.
            trial = self._attempt(move.batch_size, FULL_STEPS) or trial
        if trial.ok and (move.timed or self._looks_collapsed(trial)):
            trial = self._compare(trial)
        self._keep(trial)

    def _attempt_fresh(self, size: int, steps: int) -> Trial | None:
        """A try in a process that has trained nothing before; None where the time is over.

        Sessions of one worker share the layout of its heap, so on a heap the worker is a new one too.
        """
        if self._budget.is_over:
            return None
        self._observer.trying(size)
        self._engine.renew(worker=self._memory.heap)
        trial = self._attempt(size, steps)
        if trial is None or (trial.outcome is Outcome.TIMEOUT and self._budget.is_over):
            return None
        return replace(trial, confirmed=trial.ok)

    def _attempt(self, size: int, steps: int) -> Trial | None:
        """A try as a trial; None where a stream ended below the size, which is then the data set's."""
        seconds = self._budget.overrun_seconds if self._owes_a_size else self._budget.trial_seconds
        tried = self._engine.try_out(size, seconds, steps)
        if tried.error is not None and tried.error.code == "stream_ended":
            self._dataset_size = int(tried.detail)
            self._check_limits()
            return None
        if tried.outcome is Outcome.OK:
            self._check_training(tried)
        trial = self._trial(tried, self._judge(tried))
        if trial.ok:
            self._tries[size] = trial
        return trial

    def _check_training(self, tried: messages.Tried) -> None:
        """Raises the user's error, or warns, where the steps that passed don't train."""
        counted = tried.optimizer_steps + tried.skipped_steps
        if not tried.finite and not self.trials:
            raise diagnosis.not_finite(tried.batch_size)
        if not tried.finite:
            self._warn(f"the loss was not finite at batch size {tried.batch_size}")
        if counted == 0:
            raise diagnosis.no_optimizer_step(tried)
        if counted < tried.steps:
            self._warn("the training step does not step its optimizer every time: peak memory may come later")

    def _judge(self, tried: messages.Tried) -> Outcome:
        """The outcome, by the cause of a failure. Raises the user's errors."""
        if tried.outcome is not Outcome.FAILED:
            return tried.outcome
        passed = self.trial_set.largest_passed
        error = None if tried.error is None else tried.error.rebuilt()
        if tried.cause is Cause.SUSPECTED and passed is not None and passed < tried.batch_size:
            return Outcome.OUT_OF_MEMORY
        is_of_size = error is None or error.code == "step_fails"
        if passed is None:
            self._first_error = self._first_error or error
            is_floor = is_of_size and search.may_be_floor(tried.batch_size, self._limits)
            if self._first_error is not None and not is_floor:
                raise self._first_error
        elif error is not None and tried.cause in (Cause.USER_ERROR, Cause.PEER):
            self._errors[tried.batch_size] = error
            step = self._limits.multiple_of
            if self.trial_set.persists(tried.batch_size, step) or not is_of_size:
                raise self._errors.get(tried.batch_size - step, error)
        return Outcome.FAILED

    def _trial(self, tried: messages.Tried, outcome: Outcome) -> Trial:
        return trials.from_try(tried, outcome, self._samples_of_rank)

    def _looks_collapsed(self, trial: Trial) -> bool:
        """True if the rough throughput is so low that only rounds can tell whether memory spills over."""
        best = self._best()
        rough = trial.samples_per_second
        return best is not None and rough is not None and IMPLAUSIBLE_RATIO * rough < throughput(best)

    def _compare(self, trial: Trial) -> Trial:
        """The trial with its throughput from rounds, in turns with rounds of the best size so far."""
        best = self._best()
        result = self._rounds.compare(trial.batch_size, None if best is None else best.batch_size)
        if isinstance(result, messages.Tried):
            return self._after_failed_round(trial, result)
        return self._unless_collapsed(replace(self._retimed(trial), gain=result))

    def _unless_collapsed(self, trial: Trial) -> Trial:
        """The trial, or a failure in its place where its throughput fell as no computation makes it fall."""
        gain, limit_bytes = trial.gain, self._memory.limit_bytes
        # Below half of the limit no memory can have spilled over.
        is_roomy = limit_bytes is not None and 2 * (trial.peak_bytes or 0) < limit_bytes
        if is_roomy or gain is None or not gain.decided or IMPLAUSIBLE_RATIO * gain.high > 1:
            return trial
        detail = f"throughput collapsed to {gain.ratio:.0%} of that at {gain.over:,}: memory spills over"
        return replace(trial, outcome=Outcome.OUT_OF_MEMORY, detail=detail, phase="timing")

    def _after_failed_round(self, trial: Trial, failure: messages.Tried) -> Trial:
        outcome = self._judge(failure)
        if self._memory.heap and outcome is Outcome.OUT_OF_MEMORY:
            # Rounds of two sizes in one process leave gaps in its heap; the size itself has passed.
            return trial
        if failure.batch_size != trial.batch_size:
            self._keep(trial)
        return self._trial(failure, outcome)

    def _retimed(self, trial: Trial, last: int = 0) -> Trial:
        """The trial with the times of its rounds, or of its `last` ones."""
        rounds = self._rounds.of(trial.batch_size)
        timed = trials.from_rounds(self._tries[trial.batch_size], rounds, self._samples_of_rank, last)
        return replace(timed, gain=trial.gain)

    def _measure_extras(self, ceiling: int) -> None:
        """The sizes that the answer is compared with: the current one, and a divisor of the global batch."""
        assert self._opened is not None
        workload = self._opened.workload
        wanted = [workload.batch_size]
        if workload.accumulation_steps > 1:
            divisor = search.largest_divisor(workload.batch_size, ceiling, self._limits)
            wanted = [workload.micro_batch_size, workload.batch_size, divisor]
        for current in wanted:
            for size in search.extra_sizes(self.trial_set, self._limits, current, ceiling):
                if not self._budget.is_over:
                    self._try(search.Try(size))

    def _time_contenders(self, ceiling: int) -> None:
        """Times the sizes that may be the answer side by side, so that drift can't choose among them.

        Those near the best throughput; for a check also all that it may choose, where that is cheap.
        """
        best, timed = self._best(), TrialSet(self.trials, ceiling).timed_in_rounds
        if best is None:
            return
        near = [trial for trial in timed if throughput(trial) >= CONTENDER_RATIO * throughput(best)]
        answers = [trial for trial in timed if trial in near or self._may_be_checked(trial)]
        cheap = self._budget.stage(STAGE_SHARE)
        if len(answers) == len(near) or not self._time_side_by_side(answers, cheap):
            self._time_side_by_side(near, self._budget.stage(1))

    def _may_be_checked(self, trial: Trial) -> bool:
        """Far below the current size there is hardly ever an answer."""
        assert self._opened is not None
        limits, current = self._limits, self._opened.workload.micro_batch_size or USUAL_BATCH_SIZE
        is_candidate = trial.batch_size >= LEAST_CANDIDATE_RATIO * current
        return limits.check and not limits.asks_for_size and is_candidate

    def _time_side_by_side(self, several: list[Trial], budget: Budget) -> bool:
        """True if each size got enough rounds in one window. They are its times from then on."""
        rounds = self._rounds.time_side_by_side(several, budget)
        if not rounds:
            return False
        retimed = {trial.batch_size: self._retimed(trial, last=rounds) for trial in several}
        latest = self.trial_set.latest
        self.trial_set = TrialSet(
            tuple(retimed.get(t.batch_size, t) if t is latest[t.batch_size] else t for t in self.trials)
        )
        return True

    def _best(self) -> Trial | None:
        """The size of the highest throughput among those that were timed in rounds."""
        return max(self.trial_set.timed_in_rounds, key=throughput, default=None)

    def _keep(self, trial: Trial) -> None:
        self.trial_set = self.trial_set.extended([trial])
        self._observer.tried(trial)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _check_limits(self) -> None:
        cap, reason = search.size_cap(self._limits, self._samples_of_rank)
        if cap < self._limits.smallest:
            raise diagnosis.nothing_to_try(self._limits, cap, reason, self._dataset_size)

    def _require_success(self) -> None:
        """Raises the reason where no size has passed."""
        if self.trial_set.largest_passed is not None:
            return
        if not self.trials:
            raise UsageError(
                "the time budget ended before the first trial", code="no_budget", hint="raise `--budget`"
            )
        if self._first_error is not None and self.trials[-1].outcome is Outcome.FAILED:
            # No larger size may be tried, so the error may be of every size.
            raise self._first_error
        assert self._opened is not None
        last, device = self.trials[-1], self._opened.device
        predicted = self._engine.trace_memory(without_data=True).lines if diagnosis.is_too_large(last) else ()
        raise diagnosis.nothing_passed(self.trials, device, predicted)

    def _budget_detail(self, move: search.Try | search.Trace) -> str:
        before = f"batch size {move.batch_size}" if isinstance(move, search.Try) else "the next size"
        return f"{self._budget.total_seconds:g} s were over before {before}"

    def _curve(self, ceiling: Ceiling) -> Curve:
        assert self._opened is not None
        workload = replace(self._opened.workload, dataset_size=self._dataset_size, sizes=self._engine.sizes)
        return Curve(
            trials=self.trials,
            ceiling=ceiling,
            workload=workload,
            device=self._opened.device,
            warnings=(
                *self.warnings,
                *diagnosis.warnings(self.trial_set, self._opened.device),
                *diagnosis.uncounted(self._engine.compile_seconds),
            ),
            world_size=self._engine.ranks,
        )

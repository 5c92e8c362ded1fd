"""The climb: asks the search for the next size, tries it on the engine, and keeps the result."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from autobatch.decision import search, size_bounds
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.reach import Stop, Trace, Try
from autobatch.decision.scaling import samples_of_training, share_of_dataset
from autobatch.decision.trial_set import TrialSet
from autobatch.decision.value_of_measurement import horizon_seconds
from autobatch.engines.base import Engine, Opened
from autobatch.engines.messages import CONFIRM_STEPS, FULL_STEPS
from autobatch.measurement import diagnosis
from autobatch.measurement.attempts import Attempts
from autobatch.measurement.budget import Budget
from autobatch.measurement.comparisons import Comparisons, looks_collapsed
from autobatch.measurement.rounds import Rounds
from autobatch.measurement.verification import verify
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload


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
        self._attempts = Attempts(engine, self._warn)
        self._rounds = Rounds(engine, self._budget, horizon_seconds(limits.budget_seconds, None))
        self._comparisons = Comparisons(self._attempts, self._rounds, self._budget)
        self._opened: Opened | None = None
        self._dataset_size: int | None = None
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
            self._know_dataset(self._opened.workload.dataset_size)
            device = self._opened.device
            self._memory = Memory(limit_bytes=device.limit_bytes, heap=device.kind == "cpu")
            self._observer.opened(self._opened)
            ceiling = self._ceiling()
            self._measure_extras(ceiling.batch_size)
            self._look_beyond_errors()
            self.trial_set = self._comparisons.side_by_side(
                self.trial_set, ceiling.batch_size, self._limits, self._current
            )
            if self._attempts.isolated or ceiling.limited_by is LimitedBy.MEMORY:
                # State that can't be put back, or the gaps of a full heap, are none of the check.
                self._engine.renew()
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
    def _current(self) -> int | None:
        """The current batch size of one rank, as far as anybody has said it."""
        assert self._opened is not None
        return self._opened.workload.micro_batch_size

    def _know_dataset(self, size: int | None) -> None:
        """`size`: the samples of an epoch. Each rank sees its share. Raises UsageError for too few."""
        self._dataset_size = size
        share = self._attempts.dataset_size = share_of_dataset(size, self._engine.ranks)
        cap, reason = size_bounds.size_cap(self._limits, share)
        if cap < self._limits.smallest:
            raise diagnosis.nothing_to_try(self._limits, cap, reason, size)

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
                self._attempt_fresh,
                self.trial_set,
                self._limits,
                self._attempts.dataset_size,
                self._memory,
                self._budget,
            )
            if result.trial is not None:
                self._keep(result.trial)
            if result.failed and not self._budget.is_over:
                continue
            self._require_success()
            if result.warning:
                self._warn(result.warning)
            size = self.trial_set.largest_passed or size
            roomy = TrialSet(self.trials, min(size, result.batch_size)).usable
            return Ceiling(
                batch_size=roomy[-1].batch_size if roomy else size,
                limited_by=stop.limited_by,
                verified=result.verified,
                detail=stop.detail,
            )

    def _climb(self) -> Stop:
        while True:
            move = search.next_move(
                self.trial_set,
                self._limits,
                self._attempts.dataset_size,
                self._memory,
                current_size=self._current,
            )
            if isinstance(move, Stop):
                self._require_success()
                self._require_batches(move)
                return move
            if not self._has_time and not self._owes_a_size:
                self._require_success()
                return Stop(LimitedBy.BUDGET, self._budget_detail(move))
            if isinstance(move, Trace):
                self._trace()
            else:
                self._try(move)

    @property
    def _has_time(self) -> bool:
        """True while one more size, and then rounds side by side, fit into the budget."""
        needed = self._comparisons.seconds_needed(self.trial_set, self._limits, self._current)
        return not self._budget.is_over and self._budget.left_seconds >= needed

    @property
    def _owes_a_size(self) -> bool:
        """True before the first success, which may end after the budget: the start-up may have taken it."""
        if self.trial_set.largest_passed is not None:
            return False
        # The first trial is that of the current size. A failure may be a floor, above which others pass.
        return not self.trials or self.trials[-1].outcome is Outcome.FAILED

    def _trace(self) -> None:
        traced = self._engine.trace_memory()
        self._memory = replace(self._memory, lines=traced.lines)
        if not traced.lines:
            self._warn(f"a training step can't be traced, so the ceiling takes more tries: {traced.detail}")
        elif traced.detail:
            self._warn(f"what memory a step takes was predicted from a trace: {traced.detail}")

    def _try(self, move: Try) -> Trial | None:
        """Tries a size and keeps the trial; None where a stream ended below it."""
        size = move.batch_size
        self._observer.trying(size)
        # A process that trained at other sizes has gaps in its heap, so that it takes more at this one.
        is_larger = size > (self.trial_set.largest_passed or 0)
        if self._memory.heap and is_larger and not move.timed and not self._engine.fresh:
            self._engine.renew()
        fresh = self._engine.fresh
        # The current size is often kept. It is tried first, so that its try can confirm it.
        is_kept = not self.trials and size == self._current
        trial = self._attempt(size, steps=CONFIRM_STEPS if is_kept else FULL_STEPS)
        if trial is None:
            return None
        in_heap = self._memory.heap and trial.outcome is Outcome.OUT_OF_MEMORY
        if in_heap and not fresh and not self._budget.is_over:
            # A size that ran out of memory in such a process may fit in a fresh one.
            trial = self._attempt(size) or trial
        is_compared = move.timed or looks_collapsed(trial, self.trial_set)
        if trial.ok and is_compared and not self._budget.is_over:
            *before, trial = self._comparisons.with_best(trial, self.trial_set, self._memory)
            for each in before:
                self._keep(each)
        self._keep(trial)
        return trial

    def _attempt_fresh(self, size: int, seconds: float, steps: int) -> Trial | None:
        """A try in a process that has trained nothing before; None where the time is over.

        Sessions of one worker share the layout of its heap, so on a heap the worker is a new one too.
        """
        self._observer.trying(size)
        self._engine.renew(worker=self._memory.heap)
        trial = self._attempt(size, seconds, steps)
        if trial is None or (trial.outcome is Outcome.TIMEOUT and self._budget.is_over):
            return None
        return replace(trial, confirmed=trial.ok)

    def _attempt(self, size: int, seconds: float | None = None, steps: int = FULL_STEPS) -> Trial | None:
        """A try as a trial; None where a stream ended below it. The first success may exceed the budget."""
        if seconds is None:
            seconds = self._budget.overrun_seconds if self._owes_a_size else self._budget.trial_seconds
        trial = self._attempts.attempt(size, seconds, steps, self.trial_set.largest_passed)
        if trial is None:
            self._know_dataset(self._attempts.dataset_size)
        return trial

    def _measure_extras(self, ceiling: int) -> None:
        """The sizes that the answer is compared with: a divisor of the global batch, and smaller sizes.

        The current size is among them where the data set or another limit has cut the climb short.
        """
        assert self._opened is not None
        workload = self._opened.workload
        wanted = [self._current]
        if workload.accumulation_steps > 1:
            divisor = size_bounds.largest_divisor(workload.batch_size, ceiling, self._limits)
            wanted += [workload.batch_size, divisor]
        for wanted_size in wanted:
            for size in size_bounds.extra_sizes(self.trial_set, self._limits, wanted_size, ceiling):
                if not self._budget.is_over:
                    self._try(Try(size))
        self._descend()

    def _descend(self) -> None:
        """The sizes below the climb: timed as long as they may be faster, then tried for a floor alone."""
        timed = True
        while self._has_time and (sizes := size_bounds.smaller_sizes(self.trial_set, self._limits)):
            trial = self._try(Try(sizes[0], timed=timed))
            if trial is None or not trial.ok:
                return
            if timed and size_bounds.is_slower(trial, self._limits):
                timed = False
                # The smallest that is not known to fail: if it passes, there is no floor to look for.
                for size in size_bounds.smaller_sizes(self.trial_set, self._limits)[-1:]:
                    self._try(Try(size, timed=False))

    def _look_beyond_errors(self) -> None:
        cap, _ = size_bounds.size_cap(self._limits, self._attempts.dataset_size)
        for size in size_bounds.sizes_beyond_errors(self.trial_set, self._limits, cap):
            if not self._budget.is_over:
                self._try(Try(size, timed=False))

    def _keep(self, trial: Trial) -> None:
        self.trial_set = self.trial_set.extended([trial])
        if trial.batch_size == self._current and trial.step_seconds:
            self._rounds.horizon_seconds = horizon_seconds(
                self._limits.budget_seconds, self._training_seconds(trial)
            )
        self._observer.tried(trial)

    def _training_seconds(self, current: Trial) -> float | None:
        """The seconds of the user's training at the current size; None where its length is unknown."""
        assert self._opened is not None
        workload = replace(self._opened.workload, dataset_size=self._dataset_size)
        samples = samples_of_training(workload, self._engine.ranks)
        return None if samples is None else samples / current.batch_size * median(current.step_seconds)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _require_success(self) -> None:
        """Raises the reason where no size has passed."""
        if self.trial_set.largest_passed is not None:
            return
        last, first_error = self.trials[-1], self._attempts.first_error
        if first_error is not None and last.outcome is Outcome.FAILED:
            # No larger size may be tried, so the error may be of every size.
            raise first_error
        assert self._opened is not None
        device = self._opened.device
        predicted = self._engine.trace_memory(without_data=True).lines if diagnosis.is_too_large(last) else ()
        raise diagnosis.nothing_passed(self.trials, device, predicted)

    def _require_batches(self, stop: Stop) -> None:
        """Raises the user's error where single samples train, and no batch of them does."""
        is_batched = self.trial_set.largest_passed != 1 or self._current == 1
        first_error = self._attempts.first_error
        if stop.limited_by is LimitedBy.SIZE_LIMIT and not is_batched and first_error is not None:
            raise first_error

    def _budget_detail(self, move: Try | Trace) -> str:
        before = f"batch size {move.batch_size}" if isinstance(move, Try) else "the next size"
        return f"the budget ended before {before}"

    def _growing_memory(self, workload: Workload) -> list[str]:
        assert self._opened is not None
        limit_bytes, latest = self._opened.device.limit_bytes, self.trial_set.latest
        texts = [
            diagnosis.growing_memory(latest[size], grown_bytes, limit_bytes, workload.epochs)
            for size, grown_bytes in self._attempts.grown_bytes.items()
        ]
        return [text for text in texts if text][-1:]

    def _curve(self, ceiling: Ceiling) -> Curve:
        assert self._opened is not None
        device = self._opened.device
        workload = replace(self._opened.workload, dataset_size=self._dataset_size, sizes=self._engine.sizes)
        trial_set = self.trial_set.without_kept_memory() if self._memory.heap else self.trial_set
        return Curve(
            trials=trial_set.trials,
            ceiling=ceiling,
            workload=workload,
            device=device,
            warnings=(
                *self.warnings,
                *self._growing_memory(workload),
                *diagnosis.warnings(self.trial_set, device),
                *diagnosis.uncounted(self._engine.compile_seconds),
            ),
            world_size=self._engine.ranks,
        )

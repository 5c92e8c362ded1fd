"""The generalization check: the measurements that fit into the time left, and their meaning as a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, inf, isfinite

from autobatch.decision import next_training, noise_scale, scaling
from autobatch.decision.constants import (
    BURN_IN_SHARE,
    FEWEST_SAMPLES,
    FEWEST_STEPS,
    MOST_EPOCHS,
    MOST_TRAINED_SIZES,
    NOISE_SAMPLES_SHARE,
    SMALL_BATCH_SIZE,
    USUAL_BATCH_SIZE,
)
from autobatch.decision.critical_batch import learning_rate_power, scaled_learning_rate, sum_correction
from autobatch.decision.scaling import over_ranks, share_of_dataset
from autobatch.decision.trial_set import TrialSet
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.budget import Budget
from autobatch.measurement.loss_kind import measure_loss_kind
from autobatch.measurement.same_epochs import SameEpochsComparison
from autobatch.measurement.trainings import Trainings
from autobatch.records.check import Check, CheckStatus, LossKind, NoisePoint
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import Curve


class GeneralizationCheck:
    """The check of one curve. `check` holds the result so far.

    With several ranks, the trainings are those of all of them together. The gradient noise is that of a
    single rank: it depends on the samples and the weights only. Sizes in here are those of one rank; `check`
    has the critical batch size over all ranks.
    """

    def __init__(
        self,
        engine: Engine,
        curve: Curve,
        limits: Limits,
        budget: Budget | None = None,
        announce: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`budget`: the whole one of the search; None begins one. `announce` hears of each measurement."""
        self._engine = engine
        self._curve = curve
        self._limits = limits
        self._budget = budget or Budget.of(limits, engine)
        self._announce = announce
        self._trial_set = TrialSet.of(curve)
        self._ranks = curve.world_size
        self._trainings: Trainings | None = None
        self._loss_kind = LossKind.UNKNOWN
        self._check = Check(status=CheckStatus.NOT_RUN, detail="interrupted")

    @property
    def check(self) -> Check:
        """The result so far."""
        check = self._check if self._trainings is None else self._trainings.check
        check = replace(check, loss_kind=self._loss_kind)
        if self._loss_kind is LossKind.BATCH_DEPENDENT:
            check = replace(check, critical_batch_size=None, interval=None, log_sd=None)
        return over_ranks(check, self._ranks)

    def run(self) -> Check:
        """The check, as far as the time allows; its detail says how far that was."""
        try:
            self._run()
        except AutobatchError as error:
            self._explain(error.message)
        return self.check

    def _run(self) -> None:
        if self._curve.workload.synthetic:
            return self._not_run("the inputs are random")
        # Its few steps fit where the noise takes too long, and whether to accumulate depends on them.
        if self._budget.left_seconds > self._engine.start_seconds:
            self._announce("comparing losses of half a batch and of the whole")
            self._loss_kind = measure_loss_kind(self._engine, self._trial_set, self._limits, self._budget)
        command = self._noise_command()
        if command is None:
            return self._not_run("too little of the budget was left")
        if self._loss_kind is LossKind.BATCH_DEPENDENT:
            return self._compare_without_noise(command.batch_size)
        self._announce("measuring the noise of the gradient")
        reply = self._engine.measure_noise(command)
        if not reply.measured:
            return self._not_run(reply.error or "the data set is too small")
        scales = [self._noise_scale(sums) for sums in reply.measured]
        prior = noise_scale.critical_batch_size(scales)
        self._record_noise(command.batch_size, scales, prior)
        # One rank trained alone: its samples are those of all ranks.
        points = _noise_points(command.batch_size / self._ranks, scales, reply.after_steps)
        self._check = replace(self._check, noise_points=points)
        if prior.low > 0:
            self._compare_trainings(self._plan(command.batch_size, prior))
        return None

    def _compare_without_noise(self, reference_size: int) -> None:
        """Trainings alone compare sizes: accumulated batches are not a larger one, nor is the noise smaller.

        No learning rate is scaled, as no rule holds.
        """
        self._not_run("the loss depends on the rest of the batch")
        self._check = replace(self._check, batch_size=reference_size, loss_kind=self._loss_kind)
        if self._limits.objective is Objective.TIME:
            unknown = noise_scale.CriticalBatchSize(batch_size=inf, low=1.0, high=inf, log_sd=inf)
            self._compare_trainings(replace(self._plan(reference_size, unknown), power=None))

    def _noise_scale(self, sums: noise_scale.Chunks) -> noise_scale.NoiseScale:
        """The noise scale of one measurement, in samples of a rank."""
        scale = noise_scale.noise_scale(
            sums.chunk_size, sums.squared_norms, sums.inner_products, sums.sum_squared_norm
        )
        return noise_scale.per_rank(scale, self._ranks)

    def _noise_command(self) -> messages.MeasureNoise | None:
        """The noise measurement that fits into the time left; None where that is too short."""
        current = self._curve.workload.batch_size or USUAL_BATCH_SIZE
        trial = TrialSet(self._trial_set.timed).nearest(current)
        if trial is None:
            return None
        # The noise is measured in a fresh session.
        left_seconds = self._budget.left_seconds - self._engine.start_seconds
        samples = int(NOISE_SAMPLES_SHARE * left_seconds * (trial.samples_per_second or 0.0))
        if samples < FEWEST_SAMPLES:
            return None
        size = trial.batch_size
        return messages.MeasureNoise(
            batch_size=size,
            learning_rate_factor=self._first_factor(size) * self._sum_correction(size),
            seconds=left_seconds,
            burn_in_seconds=BURN_IN_SHARE * left_seconds,
            most_samples=samples,
            largest_chunk=self._largest_chunk(trial.batch_size),
            smallest_chunk=max(self._limits.smallest, self._trial_set.floor),
            multiple_of=self._limits.unit,
        )

    def _sum_correction(self, size: int) -> float:
        """The correction of learning rates for a loss that is a sum, of each rank by itself."""
        workload = self._curve.workload
        return sum_correction(
            self._loss_kind, learning_rate_power(workload.optimizer), workload.batch_size or size, size
        )

    def _largest_chunk(self, batch_size: int) -> int:
        """The most samples of a chunk: at most a size that fits, and enough for BatchNorm where possible."""
        nearest = self._trial_set.nearest(max(batch_size, SMALL_BATCH_SIZE))
        return batch_size if nearest is None else max(batch_size, nearest.batch_size)

    def _first_factor(self, size: int) -> float:
        """The factor of the learning rate by the linear rule, which gives the lowest rate for fewer samples.

        A step has fewer where the current size does not fit, and where one rank trains alone.
        """
        current, power = self._curve.workload.batch_size, self._power
        if power is None:
            return 1.0
        return scaled_learning_rate(1.0, self._ranks * (current or size), size, inf, power)

    def _record_noise(
        self, batch_size: int, scales: Sequence[noise_scale.NoiseScale], prior: noise_scale.CriticalBatchSize
    ) -> None:
        if not (isfinite(prior.batch_size) and isfinite(prior.log_sd)):
            self._check = Check(
                status=CheckStatus.NOT_RUN,
                batch_size=batch_size,
                detail="the gradient's noise hides its mean",
            )
            return
        self._check = Check(
            status=CheckStatus.NOISE_ONLY,
            batch_size=batch_size,
            noise_scale=next(scale.batch_size for scale in reversed(scales) if scale.valid),
            critical_batch_size=prior.batch_size,
            interval=(prior.low, None if prior.high == inf else prior.high),
            log_sd=prior.log_sd,
        )

    def _plan(self, reference_size: int, prior: noise_scale.CriticalBatchSize) -> next_training.TrainingPlan:
        workload = self._curve.workload
        assert self._trial_set.step_time is not None
        return next_training.TrainingPlan(
            sizes=tuple(sorted({reference_size, *(trial.batch_size for trial in self._trial_set.timed)})),
            law=self._trial_set.step_time,
            prior=prior,
            reference_size=reference_size,
            current_size=workload.batch_size,
            power=self._power,
            keeps_rate=self._limits.keep_learning_rate,
            whole_samples=scaling.samples_of_training(workload, self._ranks),
            loss_kind=self._loss_kind,
        )

    @property
    def _power(self) -> float | None:
        """The power of the rule for learning rates; where the rate is kept, that of the user's code."""
        workload = self._curve.workload
        kept = self._limits.keep_learning_rate
        return workload.learning_rate_power if kept else learning_rate_power(workload.optimizer)

    def _compare_trainings(self, plan: next_training.TrainingPlan) -> None:
        """Runs short trainings, as long as one is worth it and there is time."""
        self._trainings = Trainings(
            self._engine,
            plan,
            self._check,
            limits=self._limits,
            largest_part=self._largest_chunk(plan.reference_size),
            announce=self._announce,
        )
        if self._limits.asks_for_size:
            return self._trainings.explain("the size was asked for")
        workload = self._curve.workload
        if workload.accumulation_steps > 1 and plan.reference_size != workload.batch_size:
            return self._trainings.explain("the global batch size is kept, and does not fit at once")
        if self._limits.objective is Objective.TIME_TO_LOSS:
            return self._compare_times_to_loss(plan, self._trainings)
        samples = share_of_dataset(workload.dataset_size, self._ranks)
        if samples is None:
            return self._trainings.explain("the number of samples of an epoch is unknown")
        comparison = SameEpochsComparison(
            self._trainings, plan, self._trial_set, workload, samples, self._budget
        )
        return comparison.run()

    def _compare_times_to_loss(self, plan: next_training.TrainingPlan, trainings: Trainings) -> None:
        """Runs trainings of equal time."""
        seconds = self._training_seconds(plan)
        if next_training.next_run(plan, ()) is None:
            return trainings.explain("no other size can be expected to be faster")
        if seconds is None:
            return trainings.explain("too little of the budget was left for trainings")
        while self._budget.left_seconds >= seconds:
            runs = next_training.next_runs(plan, trainings.done, self._engine.trainings_at_once)
            if not runs or not trainings.run(runs, seconds):
                return None
        return None

    def _training_seconds(self, plan: next_training.TrainingPlan) -> float | None:
        """Seconds of each training; None where the time left can't compare two sizes."""
        choice = next_training.state_after(plan, ()).choice
        least = FEWEST_STEPS * plan.law.step_seconds_at(max(choice, plan.reference_size))
        useful = MOST_EPOCHS * self._epoch_seconds(plan)
        # A comparison needs two trainings. Where all run at the same time, it needs a second round too.
        for trainings in (MOST_TRAINED_SIZES, 2):
            rounds = max(2, ceil(trainings / self._engine.trainings_at_once))
            round_seconds = self._budget.left_seconds / rounds
            if round_seconds >= least:
                return min(round_seconds, max(useful, least))
        return None

    def _epoch_seconds(self, plan: next_training.TrainingPlan) -> float:
        samples = share_of_dataset(self._curve.workload.dataset_size, self._ranks)
        size = plan.reference_size
        return inf if samples is None else samples / size * plan.law.step_seconds_at(size)

    def _not_run(self, reason: str) -> None:
        self._check = Check(status=CheckStatus.NOT_RUN, detail=reason)

    def _explain(self, reason: str) -> None:
        """Keeps the results so far; their detail is the reason why there are no more."""
        if self._trainings is not None:
            self._trainings.explain(reason)
        elif not self._check.detail or self._check.status is CheckStatus.NOT_RUN:
            self._check = replace(self._check, detail=reason)


def _noise_points(
    step_samples: float, scales: Sequence[noise_scale.NoiseScale], after_steps: Sequence[int]
) -> tuple[NoisePoint, ...]:
    """The valid noise scales with the samples of the burn-in before them, `step_samples` in each step."""
    return tuple(
        NoisePoint(samples_seen=steps * step_samples, batch_size=scale.batch_size, low=scale.low)
        for scale, steps in zip(scales, after_steps, strict=False)
        if scale.valid and steps
    )

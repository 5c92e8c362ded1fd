"""The parent's side of the check: what to measure in the time that is left, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, inf, isfinite

from autobatch.decision import next_training, noise_scale, search
from autobatch.decision.constants import MOST_TRAINED_SIZES
from autobatch.decision.critical_batch import learning_rate_power, scaled_learning_rate
from autobatch.decision.round_statistics import timed
from autobatch.decision.scaling import over_ranks, share_of_dataset
from autobatch.decision.time_to_loss import step_time_law
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.records.check import Check, CheckStatus, Training
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, Outcome, Trial

# Of the budget, for the probe; the rest is the check's.
PROBE_SHARE = 0.65
# Shares of the time that is left: for training, and for the samples of three measurements, which double.
_BURN_IN_SHARE = 0.25
_SAMPLES_SHARE = 0.07
_MOST_BURN_IN_SECONDS = 10.0
_FEWEST_SAMPLES = 64
# Models with BatchNorm need chunks of that many samples.
_LEAST_CHUNK = 8
# A short training ends after that many epochs at the base size.
_EPOCHS = 10
# It needs that many steps to be judged, and the contest that many trainings to begin.
_FEWEST_STEPS = 12
_FEWEST_TRAININGS = 2
# One evaluation takes this share of a training at most: there are about thirty of them.
_EVALUATION_SHARE = 0.01
# A sample's forward pass is at most this part of its training step.
_FORWARD_SHARE = 0.5
_MOST_HELD_OUT, _FEWEST_HELD_OUT = 1024, 64
# Parts of the samples held out, whose spread is the comparison's error.
_PARTS = 8


class Assessment:
    """One check of one curve. `check` says at any time what it has come to.

    With several ranks, the trainings are those of all of them together. The noise is that of one rank alone:
    it belongs to the samples and the weights, however a batch is shared out. All in here is in samples of
    one rank; `check` has the critical batch size over all ranks.
    """

    def __init__(
        self, engine: Engine, curve: Curve, limits: Limits, tell: Callable[[str], None] = lambda what: None
    ) -> None:
        """`tell` hears what is about to be done."""
        self._engine = engine
        self._curve = curve
        self._limits = limits
        self._tell = tell
        self._passed = _passed(curve)
        self._ranks = curve.world_size
        self._trainings: list[Training] = []
        self._held_out = ""
        self._check = Check(status=CheckStatus.NOT_RUN, detail="interrupted")

    @property
    def check(self) -> Check:
        """What it has come to."""
        return over_ranks(self._check, self._ranks)

    def run(self) -> Check:
        """The check, as far as the rest of the budget goes; its detail says how far that was."""
        try:
            self._run()
        except AutobatchError as error:
            self._give_up(error.message)
        return self.check

    def _run(self) -> None:
        if self._curve.workload.synthetic:
            return self._not_run("the inputs are random")
        command = self._noise_command()
        if command is None:
            return self._not_run("too little of the budget was left")
        self._tell("measuring the noise of the gradient")
        found = self._engine.measure_noise(command)
        scales = [
            noise_scale.noise_scale(
                one.chunk_size, one.squared_norms, one.inner_products, one.sum_squared_norm
            )
            for one in found.measured
        ]
        if not scales:
            return self._not_run(found.error or "the data set is too small")
        scales = [noise_scale.per_rank(one, self._ranks) for one in scales]
        prior = noise_scale.critical_batch_size(scales)
        self._keep_noise(command.batch_size, scales, prior)
        if prior.low > 0:
            self._hold(self._contest(command.batch_size, prior))
        return None

    def _noise_command(self) -> messages.MeasureNoise | None:
        """What to measure in the time that is left; None where that is too short."""
        if not self._passed:
            return None
        own = _nearest(self._passed, self._curve.workload.batch_size or search.USUAL_BATCH_SIZE)
        samples = int(_SAMPLES_SHARE * self._left * (own.samples_per_second or 0.0))
        if samples < _FEWEST_SAMPLES:
            return None
        return messages.MeasureNoise(
            batch_size=own.batch_size,
            learning_rate_factor=self._first_factor(own.batch_size),
            seconds=self._left,
            burn_in_seconds=min(_MOST_BURN_IN_SECONDS, _BURN_IN_SHARE * self._left),
            most_samples=samples,
            largest_chunk=max(own.batch_size, _nearest(self._passed, _LEAST_CHUNK).batch_size),
        )

    def _first_factor(self, size: int) -> float:
        """For fewer samples than the rate is meant for, the rate by the linear rule: the lowest one.

        They are fewer where the present size doesn't fit, and where one rank alone trains.
        """
        current, power = self._curve.workload.batch_size, learning_rate_power(self._curve.workload.optimizer)
        if power is None:
            return 1.0
        return scaled_learning_rate(1.0, self._ranks * (current or size), size, inf, power)

    def _keep_noise(
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
            noise_scale=next(one.batch_size for one in reversed(scales) if one.valid),
            critical_batch_size=prior.batch_size,
            interval=(prior.low, None if prior.high == inf else prior.high),
            log_sd=prior.log_sd,
        )

    def _contest(
        self, reference_size: int, prior: noise_scale.CriticalBatchSize
    ) -> next_training.TrainingPlan:
        workload = self._curve.workload
        trials = timed(self._passed)
        return next_training.TrainingPlan(
            sizes=tuple(sorted({reference_size, *(trial.batch_size for trial in trials)})),
            law=step_time_law(trials),
            prior=prior,
            reference_size=reference_size,
            current_size=workload.batch_size,
            power=learning_rate_power(workload.optimizer),
        )

    def _hold(self, about: next_training.TrainingPlan) -> None:
        """Runs trainings of equal time, as long as one is worth it and there is time."""
        if self._limits.asks_for_size:
            return self._give_up("the size was asked for")
        seconds = self._training_seconds(about)
        if next_training.next_run(about, ()) is None:
            return self._give_up("no other size can be expected to be quicker")
        if seconds is None:
            return self._give_up("too little of the budget was left for trainings")
        at_once = self._engine.trainings_at_once
        while self._left >= seconds:
            entries = next_training.next_runs(about, self._trainings, at_once)
            if not entries or not self._train(about, entries, seconds):
                return None
        return None

    def _train(
        self, about: next_training.TrainingPlan, entries: Sequence[next_training.Run], seconds: float
    ) -> bool:
        """Runs these trainings and keeps what they show; False where one of them can't be held."""
        sizes = ", ".join(f"{one.batch_size:,}" for one in entries)
        self._tell(f"training at batch size {sizes}, to compare")
        replies = self._engine.train_all([self._train_command(about, one, seconds) for one in entries])
        for reply in replies:
            if reply.training is not None:
                self._trainings.append(reply.training)
                self._held_out = reply.held_out or self._held_out
        if any(one.batch_size == about.reference_size for one in self._trainings):
            self._keep_trainings(about)
        why_not = [reply.held_out for reply in replies if reply.training is None]
        if why_not:
            self._give_up(why_not[0])
        return not why_not

    def _training_seconds(self, about: next_training.TrainingPlan) -> float | None:
        """Seconds of each training; None where the time that is left can't tell any two sizes apart."""
        slowest = about.law.step_seconds_at(
            max(next_training.state_after(about, ()).choice, about.reference_size)
        )
        least = _FEWEST_STEPS * slowest
        useful = _EPOCHS * self._epoch_seconds(about)
        for trainings in (MOST_TRAINED_SIZES, _FEWEST_TRAININGS):
            # Where all run at the same time, there is to be time for what they leave open.
            rounds = max(_FEWEST_TRAININGS, ceil(trainings / self._engine.trainings_at_once))
            if self._left / rounds >= least:
                return min(self._left / rounds, max(useful, least))
        return None

    def _epoch_seconds(self, about: next_training.TrainingPlan) -> float:
        size = share_of_dataset(self._curve.workload.dataset_size, self._ranks)
        return (
            inf
            if size is None
            else size / about.reference_size * about.law.step_seconds_at(about.reference_size)
        )

    def _train_command(
        self, about: next_training.TrainingPlan, entry: next_training.Run, seconds: float
    ) -> messages.Train:
        rate = about.reference_size / about.law.step_seconds_at(about.reference_size)
        samples = int(_EVALUATION_SHARE * seconds * rate / _FORWARD_SHARE)
        samples = max(_FEWEST_HELD_OUT, min(samples, _MOST_HELD_OUT))
        largest = _nearest(self._passed, max(about.reference_size, _LEAST_CHUNK)).batch_size
        return messages.Train(
            batch_size=entry.batch_size,
            learning_rate_factor=entry.learning_rate_factor,
            seconds=seconds,
            samples=samples,
            part_size=max(1, min(samples // _PARTS, largest)),
            seed=self._limits.seed,
        )

    def _keep_trainings(self, about: next_training.TrainingPlan) -> None:
        """The check with what the trainings so far say."""
        trained = {one.batch_size for one in self._trainings}
        kept = replace(self._check, trainings=tuple(self._trainings), held_out=self._held_out)
        own = next(one for one in self._trainings if one.batch_size == about.reference_size)
        if own.outcome is not Outcome.OK:
            self._check = replace(kept, detail=f"at batch size {own.batch_size:,}: {own.detail}")
            return
        if len(trained) < _FEWEST_TRAININGS:
            self._check = replace(kept, detail="only one size was trained")
            return
        now = next_training.state_after(about, self._trainings)
        kept = replace(kept, vetoed=now.vetoed, detail="")
        if now.matched is not None:
            kept = replace(
                kept,
                matched_loss=now.matched.loss,
                critical_batch_size=now.belief.batch_size,
                interval=now.belief.interval,
                log_sd=now.belief.log_sd,
            )
        elif kept.critical_batch_size is None:
            self._check = replace(kept, detail="neither the gradient's noise nor the trainings tell enough")
            return
        self._check = replace(kept, status=CheckStatus.VETOED if now.vetoed else CheckStatus.PASSED)

    def _not_run(self, why: str) -> None:
        self._check = Check(status=CheckStatus.NOT_RUN, detail=why)

    def _give_up(self, why: str) -> None:
        """What has been found so far stays; why there is no more is its detail."""
        if not self._check.detail or self._check.status is CheckStatus.NOT_RUN:
            self._check = replace(self._check, detail=why)

    @property
    def _left(self) -> float:
        return self._limits.budget_seconds - self._engine.busy_seconds


def _passed(curve: Curve) -> list[Trial]:
    """The sizes that fit, with their throughput."""
    return [t for t in search.latest(curve.trials).values() if t.ok and t.samples_per_second]


def _nearest(passed: Sequence[Trial], size: int) -> Trial:
    """The trial of the largest size that passed up to `size`, else the smallest there is."""
    below = [trial for trial in passed if trial.batch_size <= size]
    if below:
        return max(below, key=lambda trial: trial.batch_size)
    return min(passed, key=lambda trial: trial.batch_size)

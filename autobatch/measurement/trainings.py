"""The short trainings of a check: how each is asked for, and the check with the evidence of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autobatch.decision import next_training
from autobatch.decision.constants import EVALUATION_SHARE, FEWEST_SAMPLES, FIRST_SAMPLES, MAX_REPEATS
from autobatch.decision.loss_curves import best_of_each
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.records.check import Check, CheckStatus, LossKind, Training
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome


class Trainings:
    """Runs trainings from the same first weights. `check` holds the result so far, in units of one rank."""

    def __init__(
        self,
        engine: Engine,
        plan: next_training.TrainingPlan,
        check: Check,
        *,
        limits: Limits,
        largest_part: int,
        announce: Callable[[str], None],
    ) -> None:
        """`largest_part`: samples that can be evaluated at once."""
        self.check = check
        self._engine = engine
        self._plan = plan
        self._limits = limits
        self._largest_part = largest_part
        self._announce = announce
        self._held_out = ""
        self._samples: int | None = None

    @property
    def done(self) -> tuple[Training, ...]:
        """The trainings so far, in their order."""
        return self.check.trainings

    def run(
        self, runs: Sequence[next_training.Run], seconds: float, *, most_samples: int | None = None
    ) -> bool:
        """Runs these trainings and records them; False where one of them can't be run.

        Each takes `seconds`, or ends after `most_samples` of each rank.
        """
        sizes = ", ".join(f"{run.batch_size:,}" for run in runs)
        self._announce(f"training at batch size {sizes}, to compare")
        replies = self._engine.train_all([self._command(run, seconds, most_samples) for run in runs])
        done = [*self.done]
        for reply in replies:
            if reply.training is not None:
                done.append(reply.training)
                self._held_out = reply.held_out or self._held_out
        if any(training.batch_size == self._plan.reference_size for training in done):
            self.check = replace(self.check, trainings=tuple(done), held_out=self._held_out)
            self.check = self._with_evidence()
        reasons = [reply.held_out for reply in replies if reply.training is None]
        if reasons:
            self.explain(reasons[0])
        return not reasons

    def explain(self, reason: str) -> None:
        """Keeps the results so far; their detail is the reason why there are no more."""
        if not self.check.detail or self.check.status is CheckStatus.NOT_RUN:
            self.check = replace(self.check, detail=reason)

    def _command(self, run: next_training.Run, seconds: float, most_samples: int | None) -> messages.Train:
        # All trainings are judged on the same samples, and train on the same others.
        if self._samples is None:
            self._samples = self._affordable_samples(seconds)
        samples = self._samples
        smallest, multiple_of = self._limits.smallest, self._limits.unit
        part_size = min(samples // MAX_REPEATS // multiple_of * multiple_of, self._largest_part)
        return messages.Train(
            batch_size=run.batch_size,
            learning_rate_factor=run.learning_rate_factor,
            seconds=seconds,
            samples=samples,
            part_size=max(smallest, part_size),
            seed=self._limits.seed,
            most_samples=most_samples,
            smallest_part=smallest,
            multiple_of=multiple_of,
        )

    def _affordable_samples(self, seconds: float) -> int:
        """The samples to hold out: a sample's forward pass takes at most half of its training step."""
        size = self._plan.reference_size
        rate = size / self._plan.law.step_seconds_at(size)
        return max(FEWEST_SAMPLES, min(int(2 * EVALUATION_SHARE * seconds * rate), FIRST_SAMPLES))

    def _with_evidence(self) -> Check:
        """The check with the evidence of its trainings."""
        plan, check = self._plan, self.check
        reference = best_of_each(check.trainings)[plan.reference_size]
        if reference.outcome is not Outcome.OK:
            return replace(check, detail=f"at batch size {reference.batch_size:,}: {reference.detail}")
        if len({training.batch_size for training in check.trainings}) == 1:
            return replace(check, detail="only the reference size was trained")
        state = next_training.state_after(plan, self.done)
        check = replace(check, vetoed=state.vetoed, detail="")
        if state.matched is not None:
            check = replace(
                check,
                matched_loss=state.matched.loss,
                critical_batch_size=state.belief.batch_size,
                interval=state.belief.interval,
                log_sd=state.belief.log_sd,
            )
        elif check.critical_batch_size is None and check.loss_kind is not LossKind.BATCH_DEPENDENT:
            return replace(check, detail="neither the gradient's noise nor the trainings tell enough")
        return replace(check, status=CheckStatus.VETOED if state.vetoed else CheckStatus.PASSED)

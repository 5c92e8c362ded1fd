"""The trainings that answer for the user's epochs: sizes from the reference upwards, then learning rates."""

from __future__ import annotations

from math import ceil, inf

from autobatch.decision import next_training
from autobatch.decision.constants import FEWEST_STEPS, MOST_EPOCHS, RAISE_FROM
from autobatch.decision.equal_training import may_be_faster, next_run
from autobatch.decision.judgement import Judgement, judge
from autobatch.decision.trial_set import TrialSet
from autobatch.measurement.budget import Budget
from autobatch.measurement.trainings import Trainings
from autobatch.records.workload import Workload


class SameEpochsComparison:
    """Trains at the reference size, then at sizes and learning rates that may be the answer.

    Where the time allows, these are whole trainings of the user's epochs. `samples`: those of one rank's
    epoch. Sizes are those of one rank.
    """

    def __init__(
        self,
        trainings: Trainings,
        plan: next_training.TrainingPlan,
        trial_set: TrialSet,
        workload: Workload,
        samples: int,
        budget: Budget,
    ) -> None:
        self._trainings = trainings
        self._plan = plan
        self._trial_set = trial_set
        self._workload = workload
        self._samples = samples
        self._budget = budget
        self._extra_seconds = 0.0

    def run(self) -> None:
        """Trains for as long as a training can tell more, and there is time for it."""
        plan = self._plan
        seconds = self._reference_seconds()
        if seconds < FEWEST_STEPS * plan.law.step_seconds_at(plan.reference_size):
            return self._trainings.explain("too little of the budget was left for trainings")
        if self._is_settled(seconds):
            return self._trainings.explain("no other size can be expected to be faster")
        epochs = self._workload.epochs or MOST_EPOCHS
        first = next_training.Run(
            batch_size=plan.reference_size, learning_rate_factor=self._rule(plan.reference_size)
        )
        most_samples = ceil(epochs * self._samples)
        if not self._train(first, seconds, most_samples):
            return None
        done = first
        while (judgement := self._judgement()) is not None:
            run = next_run(judgement, self._rule)
            # An engine that can't change the rate would be asked for it again and again.
            if run is None or run == done:
                return None
            if judgement.run_epochs:
                most_samples = ceil(judgement.run_epochs * self._samples)
                expected = most_samples / run.batch_size * plan.law.step_seconds_at(run.batch_size)
                # The law is no promise: a training that is slower than expected ends with the time left.
                seconds = self._budget.left_seconds
                if expected + self._extra_seconds > seconds:
                    return None
            if not self._train(run, seconds, most_samples):
                return None
            done = run
        return None

    def _train(self, run: next_training.Run, seconds: float, most_samples: int) -> bool:
        """Runs a training, and notes the time that it took beside its steps, mostly for evaluations."""
        begin = self._budget.spent_seconds
        if not self._trainings.run([run], seconds, most_samples=most_samples):
            return False
        steps = self._trainings.done[-1].steps if self._trainings.done else 0
        in_steps = steps * self._plan.law.step_seconds_at(run.batch_size)
        self._extra_seconds = max(self._extra_seconds, self._budget.spent_seconds - begin - in_steps)
        return True

    def _reference_seconds(self) -> float:
        """Seconds of the first training: a half of the time left at most, the rest being for comparisons.

        A training of unknown length, or one that fits, takes the half. Of a longer one, a quarter will do
        where it is enough to try learning rates by.
        """
        half = self._budget.left_seconds / 2
        whole = self._whole_seconds
        return half if whole == inf or whole <= half else min(half, max(half / 2, RAISE_FROM * whole))

    @property
    def _whole_seconds(self) -> float:
        """Seconds of the user's training at the reference size; infinite where its length is unknown."""
        epochs, size = self._workload.epochs, self._plan.reference_size
        if epochs is None:
            return inf
        return epochs * self._samples / size * self._plan.law.step_seconds_at(size)

    def _is_settled(self, seconds: float) -> bool:
        """True where no other size may be faster, and no learning rate can be tried."""
        judgement = self._judgement()
        if judgement is not None and may_be_faster(judgement):
            return False
        return self._plan.keeps_rate or seconds < RAISE_FROM / 2 * self._whole_seconds

    def _judgement(self) -> Judgement | None:
        """The decision by the trainings so far."""
        return judge(
            self._trial_set,
            self._trainings.check,
            current_size=self._workload.batch_size,
            samples=self._samples,
            epochs=self._workload.epochs,
            keeps_rate=self._plan.keeps_rate,
            power=self._workload.learning_rate_power,
        )

    def _rule(self, size: int) -> float:
        """The factor of the learning rates at a size, by the noise rule."""
        belief = next_training.state_after(self._plan, self._trainings.done).belief
        return next_training.learning_rate_factor(self._plan, belief, size)

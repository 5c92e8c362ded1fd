"""Pure: which batch size the check trains next, and the state of its knowledge after each training.

The reference size comes first, since the others are compared with it. Then comes the size that would be
chosen if the check ended here, with the learning rate of the rule and with half of it. From then on a
training is worth its time only if it can change the answer: at sizes that may still turn out faster, and at
other learning rates of the chosen size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf

from autobatch.decision import critical_batch, loss_curves
from autobatch.decision.constants import MOST_TRAINED_SIZES, RAISED_RATE, RESOLUTION
from autobatch.decision.critical_batch import Belief
from autobatch.decision.learning_rate import RateWalk, walk
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.step_time import StepTimeLaw
from autobatch.records.check import LossKind, Training, Veto
from autobatch.records.trial import Outcome

# A lower learning rate may repair these.
_REPAIRABLE = (Outcome.OK, Outcome.DIVERGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Everything that is known before any training, in samples of one rank.

    `sizes` were timed, with the step-time model `law`; `prior` comes from the noise scale. Trainings are
    compared with the one at `reference_size`. `current_size` wins ties, and the learning rates belong to it;
    None where the user named none: the reference size takes its place. Learning rates are scaled by `power`;
    None where no rule is known for the optimizer, or the user keeps the rate: then they stay. `keeps_rate`:
    no other rate is tried, and the user's code multiplies it by the batch size to the power `power`.
    `whole_samples`: those of the user's training; None where its length is unknown.
    Learning rates are those of a `loss_kind`.
    """

    sizes: tuple[int, ...]
    law: StepTimeLaw
    prior: CriticalBatchSize
    reference_size: int
    current_size: int | None
    power: float | None
    keeps_rate: bool = False
    whole_samples: float | None = None
    loss_kind: LossKind = LossKind.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """The state after some trainings: the belief in B_crit, the sizes still allowed, and the chosen one."""

    belief: Belief
    matched: loss_curves.Matched | None
    vetoed: tuple[Veto, ...]
    allowed: tuple[int, ...]
    choice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training to run."""

    batch_size: int
    learning_rate_factor: float


def walk_at(size: int, trainings: Sequence[Training], whole_samples: float | None) -> RateWalk | None:
    """The walk over the learning rates at a size; None where it was not trained."""
    runs = [training for training in trainings if training.batch_size == size]
    if not runs:
        return None
    return walk(runs, None if whole_samples is None else runs[0].steps * size / whole_samples)


def state_after(plan: TrainingPlan, trainings: Sequence[Training]) -> TrainingState:
    """The state after `trainings`."""
    trainings = loss_curves.about_sizes(plan.reference_size, trainings)
    matched = loss_curves.match(loss_curves.sound(plan.reference_size, trainings))
    belief = critical_batch.posterior(plan.prior, matched.steps if matched else ())
    vetoed = vetoes(plan.reference_size, trainings, is_final=plan.keeps_rate)
    allowed = without_vetoed(plan.sizes, plan.reference_size, vetoed)
    choice = critical_batch.pick(allowed, belief, plan.law, current_size=plan.current_size)
    return TrainingState(
        belief=belief, matched=matched, vetoed=vetoed, allowed=allowed, choice=choice.batch_size
    )


def next_run(plan: TrainingPlan, trainings: Sequence[Training]) -> Run | None:
    """The training to run next; None where no further one can change the answer much."""
    return next(_runs(plan, trainings), None)


def next_runs(plan: TrainingPlan, trainings: Sequence[Training], most: int) -> tuple[Run, ...]:
    """The trainings to run at the same time next, `most` of them at most; the first is that of `next_run`."""
    return tuple(islice(_runs(plan, trainings), most))


def vetoes(reference_size: int, trainings: Sequence[Training], *, is_final: bool = False) -> tuple[Veto, ...]:
    """The sizes that trained worse than the reference size, also with half the learning rate, or failed.

    `is_final`: half the learning rate won't be tried.
    """
    trained = loss_curves.best_of_each(trainings)
    reference = trained.get(reference_size)
    if reference is None:
        return ()
    tries = Counter(training.batch_size for training in trainings)
    return tuple(
        Veto(batch_size=size, reason=reason)
        for size, training in sorted(trained.items())
        if size != reference_size
        and (is_final or tries[size] > 1 or training.outcome not in _REPAIRABLE)
        and (reason := loss_curves.why_worse(reference, training))
    )


def without_vetoed(sizes: Sequence[int], reference_size: int, vetoed: Sequence[Veto]) -> tuple[int, ...]:
    """The sizes that may be chosen: a veto above the reference size holds for all larger sizes too."""
    excluded = {veto.batch_size for veto in vetoed}
    lowest = min((size for size in excluded if size > reference_size), default=inf)
    return tuple(size for size in sizes if size < lowest and size not in excluded)


def learning_rate_factor(plan: TrainingPlan, belief: Belief, size: int) -> float:
    """The factor of the learning rates at `size`; 1 where no rule is known."""
    if plan.power is None:
        return 1.0
    current_size = plan.current_size or plan.reference_size
    if plan.keeps_rate:
        return float((size / current_size) ** plan.power)
    return _sum_correction(plan, size) * critical_batch.scaled_learning_rate(
        1.0, current_size, size, belief.batch_size, plan.power
    )


def _sum_correction(plan: TrainingPlan, size: int) -> float:
    """The factor of a learning rate at `size` at which the steps of a sum are those of its mean."""
    current_size = plan.current_size or plan.reference_size
    return critical_batch.sum_correction(plan.loss_kind, plan.power, current_size, size)


def _runs(plan: TrainingPlan, trainings: Sequence[Training]) -> Iterator[Run]:
    """The trainings that are worth their time, the most urgent first."""
    state = state_after(plan, trainings)
    trained = loss_curves.best_of_each(trainings)
    reference = trained.get(plan.reference_size)
    if reference is None:
        if state.choice == plan.reference_size and _most_worthwhile(plan, state, ()) is None:
            return
        yield _run(plan, state, plan.reference_size)
    elif loss_curves.why_worse(reference, reference):
        return
    elif not plan.keeps_rate:
        yield from _retries(plan, state, reference, trainings)
    taken = {plan.reference_size, *trained}
    while (size := _most_worthwhile(plan, state, taken)) is not None:
        yield _run(plan, state, size)
        taken.add(size)
    if plan.keeps_rate or plan.whole_samples is None:
        return
    walked = walk_at(state.choice, trainings, plan.whole_samples)
    if walked is not None and walked.next_factor is not None:
        yield Run(batch_size=state.choice, learning_rate_factor=walked.next_factor)


def _run(plan: TrainingPlan, state: TrainingState, size: int) -> Run:
    return Run(batch_size=size, learning_rate_factor=learning_rate_factor(plan, state.belief, size))


def _retries(
    plan: TrainingPlan, state: TrainingState, reference: Training, trainings: Sequence[Training]
) -> Iterator[Run]:
    """Once more with half the learning rate: each size rejected once, and the choice if its rate was raised.

    The current rate may be close to the highest that this model bears at any batch size.
    """
    tries = Counter(training.batch_size for training in trainings)
    first = [t for t in trainings if t is not reference and tries[t.batch_size] == 1]
    rejected = [t for t in first if t.outcome in _REPAIRABLE and loss_curves.why_worse(reference, t)]
    raised = [
        t
        for t in first
        if t.batch_size == state.choice
        and t.learning_rate_factor >= RAISED_RATE * _sum_correction(plan, t.batch_size)
        and t not in rejected
    ]
    for training in (*rejected, *raised):
        yield Run(batch_size=training.batch_size, learning_rate_factor=training.learning_rate_factor / 2)


def _most_worthwhile(plan: TrainingPlan, state: TrainingState, trained: Collection[int]) -> int | None:
    """The size to train: the choice itself, else the candidate that may save the most time beyond it."""
    if len(trained) >= MOST_TRAINED_SIZES:
        return None
    if state.choice not in trained and state.choice != plan.reference_size:
        return state.choice
    gains = {
        size: critical_batch.possible_gain(size, state.choice, state.belief, plan.law)
        for size in critical_batch.candidates(state.allowed, state.belief, plan.law, plan.current_size)
        if size not in trained and size != plan.reference_size
    }
    best = max(gains, key=gains.__getitem__, default=None)
    return best if best is not None and gains[best] >= RESOLUTION else None

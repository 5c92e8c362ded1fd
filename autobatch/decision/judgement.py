"""Pure: every timed size beside the current one for a training of the same epochs, and the decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from autobatch.decision import loss_curves
from autobatch.decision.confidence import Speedup, compare_sizes, decide, measured_speedups
from autobatch.decision.constants import HARM_TOLERANCE, TOLERANCE, USUAL_BATCH_SIZE
from autobatch.decision.loss_extrapolation import LossCurve, loss_curve
from autobatch.decision.same_epochs import Course, HarmEstimate, estimate_harms
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, LossKind, Training
from autobatch.records.recommendation import Decision, SameEpochs
from autobatch.records.trial import Trial
from autobatch.records.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The decision for a training of the same epochs, and the estimates that it rests on, by batch size.

    `reference`: the current size, or the size that stands for it. `run_epochs`: the part of the training that
    was run at the reference; 0 without a training.
    """

    reference: int
    speedups: dict[int, Speedup]
    harms: dict[int, HarmEstimate]
    decision: Decision
    run_epochs: float

    @property
    def rows(self) -> tuple[SameEpochs, ...]:
        """Each size beside the reference, by rising batch size."""
        return compare_sizes(self.reference, self.speedups, self.harms)


def judge(
    permitted: TrialSet,
    check: Check,
    *,
    current_size: int | None,
    samples: int | None,
    epochs: float | None,
) -> Judgement | None:
    """The decision of the check so far, in units of one rank; None where no permitted size was timed.

    `samples`: those of one epoch. Without a loss curve of the reference, the decision is to keep it.
    """
    law = permitted.step_time
    reference = _reference(permitted, check, current_size)
    if law is None or reference is None:
        return None
    speedups = measured_speedups(reference, permitted.timed, law)
    size = reference.batch_size
    base = _reference_curve(check, size, samples)
    harms = _harms(check, size, tuple(speedups), samples, epochs, base)
    return Judgement(
        reference=size,
        speedups=speedups,
        harms=harms,
        decision=decide(size, speedups, harms),
        run_epochs=base.epochs[-1] if base is not None and base.epochs else 0.0,
    )


def next_size(judgement: Judgement, trainings: Sequence[Training], workload: Workload) -> int | None:
    """The size to train next, for as many epochs as the reference; None where no training can tell more.

    Trainings that cover the user's epochs, or stand for them, are compared size by size from the reference
    upwards, as long as the sizes are safe and may be faster. Shorter ones only confirm the decision.
    """
    trained = {training.batch_size for training in trainings}
    decided = judgement.decision.batch_size
    epochs = workload.epochs
    is_whole = epochs is None or judgement.run_epochs >= (1 - HARM_TOLERANCE) * epochs
    if not judgement.harms or not is_whole:
        return decided if judgement.harms and decided not in trained else None
    for row in judgement.rows:
        if row.batch_size <= judgement.reference or row.interval[1] < 1 + TOLERANCE:
            continue
        if row.batch_size not in trained:
            return row.batch_size
        if not row.safe:
            return None
    return None


def _reference(permitted: TrialSet, check: Check, current_size: int | None) -> Trial | None:
    """The trial that the others are compared with: of the check's reference size where it is permitted."""
    usable = {trial.batch_size: trial for trial in permitted.usable}
    if check.batch_size in usable:
        return usable[check.batch_size]
    return permitted.nearest(current_size or USUAL_BATCH_SIZE)


def _reference_curve(check: Check, size: int, samples: int | None) -> LossCurve | None:
    """The loss curve of the first training at the reference size."""
    training = next((training for training in check.trainings if training.batch_size == size), None)
    return None if training is None or samples is None else loss_curve(training, samples)


def _harms(
    check: Check,
    reference: int,
    sizes: Sequence[int],
    samples: int | None,
    epochs: float | None,
    base: LossCurve | None,
) -> dict[int, HarmEstimate]:
    """The harm of each size; infinite where it trained worse. Empty where nothing is known."""
    if base is None or samples is None or not base.epochs:
        return {}
    # Accumulated batches are not a larger one to such a loss, nor is a larger one less noisy.
    noise = None if check.loss_kind is LossKind.BATCH_DEPENDENT else check.noise_points
    course = Course(current_size=reference, samples=samples, epochs=epochs, curve=base, noise=noise)
    trainings: dict[int, Training] = loss_curves.best_of_each(check.trainings)
    curves = {size: loss_curve(training, samples) for size, training in trainings.items() if size in sizes}
    harms = estimate_harms(course, sizes, curves)
    worse = {veto.batch_size for veto in check.vetoed} | {
        size
        for size, training in trainings.items()
        if size != reference and loss_curves.why_worse(trainings[reference], training)
    }
    return {
        size: HarmEstimate(log_harm=inf, sd=0.0) if size in worse else harm for size, harm in harms.items()
    }

"""Pure: every timed size beside the current one for a training of the same epochs, and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, inf, isclose

from autobatch.decision import loss_curves
from autobatch.decision.confidence import Speedup, compare_sizes, decide, measured_speedups
from autobatch.decision.constants import USUAL_BATCH_SIZE
from autobatch.decision.learning_rate import RateWalk, trains, walk
from autobatch.decision.loss_extrapolation import loss_curve
from autobatch.decision.same_epochs import Course, HarmEstimate, estimate_harms
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, LossKind, Training
from autobatch.records.recommendation import Decision, SameEpochs
from autobatch.records.trial import Outcome, Trial

_WORSE = HarmEstimate(log_harm=inf, sd=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The decision for a training of the same epochs, and the estimates that it rests on, by batch size.

    `reference`: the current size, or the size that stands for it. `rates`: the learning rates of the trained
    sizes; they stay as they are where it `keeps_rate`. `diverged`: trained sizes without a training that went
    well. `run_epochs`: the part of the training that was run at the reference; 0 without a training that went
    well. `is_whole`: that part stands for the whole training, or is all of it. `rescued`: the
    reference trains at a tried rate, and not at its first.
    """

    reference: int
    speedups: dict[int, Speedup]
    harms: dict[int, HarmEstimate]
    decision: Decision
    rates: dict[int, RateWalk] = field(default_factory=dict)
    keeps_rate: bool = False
    diverged: tuple[int, ...] = ()
    run_epochs: float = 0.0
    is_whole: bool = False
    rescued: bool = False

    @property
    def is_stuck(self) -> bool:
        """True where the reference was trained, and its loss falls at no rate so far."""
        return self.reference in self.rates and not self.rates[self.reference].trains

    def next_factor(self, size: int) -> float | None:
        """The learning rate to train next at a size, as a factor of the user's; None where none is wanted."""
        rate = self.rates.get(size)
        return None if rate is None or self.keeps_rate else rate.next_factor

    @property
    def rows(self) -> tuple[SameEpochs, ...]:
        """Each size beside the reference, by rising batch size."""
        rows = compare_sizes(self.reference, self.speedups, self.harms)
        return tuple(self._with_rate(row) for row in rows)

    def _with_rate(self, row: SameEpochs) -> SameEpochs:
        rate = self.rates.get(row.batch_size)
        if rate is None:
            return row
        return replace(row, learning_rate_factor=rate.factor, rate_gain=exp(-rate.log_gain))


def judge(
    permitted: TrialSet,
    check: Check,
    *,
    current_size: int | None,
    samples: int | None,
    epochs: float | None,
    keeps_rate: bool = False,
    power: float = 0.0,
) -> Judgement | None:
    """The decision of the check so far, in units of one rank; None where no permitted size was timed.

    `samples`: those of one epoch. `keeps_rate`: all sizes train with the user's learning rate, which the
    user's code multiplies by the batch size to the power `power`. Without a loss curve of the reference, the
    decision is to keep it.
    """
    law = permitted.step_time
    reference = _reference(permitted, check, current_size)
    if law is None or reference is None:
        return None
    speedups = measured_speedups(reference, permitted.timed, law)
    size = reference.batch_size
    first = next((training for training in check.trainings if training.batch_size == size), None)
    if first is None or samples is None:
        return Judgement(reference=size, speedups=speedups, harms={}, decision=decide(size, speedups, {}))
    trainings = _by_size([t for t in check.trainings if not keeps_rate or _has_own_rate(t, first, power)])
    share = None if epochs is None else first.steps * size / samples / epochs
    rates = {size: walk(runs, share) for size, runs in trainings.items()}
    settled = {
        size: next(t for t in runs if t.learning_rate_factor == rates[size].factor)
        for size, runs in trainings.items()
    }
    # A training that learns nothing is no measure for other sizes.
    rescued = rates[size].factor != first.learning_rate_factor and not trains(first)
    if rescued:
        first = settled[size]
    base = loss_curve(first, samples)
    run_epochs = base.epochs[-1] if base.epochs and not base.failed else 0.0
    course = Course(
        current_size=size,
        samples=samples,
        epochs=epochs,
        curve=base,
        # To such a loss accumulated batches are not a larger one, nor is a larger one less noisy.
        noise=None if check.loss_kind is LossKind.BATCH_DEPENDENT else check.noise_points,
        keeps_rate=keeps_rate and power == 0,
    )
    harms = _harms(course, check, first, settled, tuple(speedups), rates)
    # Beyond a size at which the rule's rate diverged, only trainings are believed.
    limit = min(
        (size for size, runs in trainings.items() if runs[0].outcome is Outcome.DIVERGED), default=inf
    )
    harms |= {s: _WORSE for s in harms if s > limit and s not in trainings}
    return Judgement(
        reference=size,
        speedups=speedups,
        harms=harms,
        decision=decide(size, speedups, harms),
        rates=rates,
        keeps_rate=keeps_rate,
        diverged=tuple(
            size for size, runs in trainings.items() if all(t.outcome is Outcome.DIVERGED for t in runs)
        ),
        run_epochs=run_epochs,
        is_whole=epochs is None or course.is_whole(base),
        rescued=rescued,
    )


def _reference(permitted: TrialSet, check: Check, current_size: int | None) -> Trial | None:
    """The trial that the others are compared with: of the check's reference size where it is permitted."""
    usable = {trial.batch_size: trial for trial in permitted.usable}
    if check.batch_size in usable:
        return usable[check.batch_size]
    return permitted.nearest(current_size or USUAL_BATCH_SIZE)


def _has_own_rate(training: Training, first: Training, power: float) -> bool:
    """Whether a training has the rate that the user's code gives it, as the first one has."""
    own = (training.batch_size / first.batch_size) ** power
    return isclose(training.learning_rate_factor, first.learning_rate_factor * own)


def _by_size(trainings: Sequence[Training]) -> dict[int, list[Training]]:
    """The trainings of each size, in the order in which they were run."""
    by_size: dict[int, list[Training]] = {}
    for training in trainings:
        by_size.setdefault(training.batch_size, []).append(training)
    return by_size


def _harms(
    course: Course,
    check: Check,
    reference: Training,
    settled: Mapping[int, Training],
    sizes: Sequence[int],
    rates: Mapping[int, RateWalk],
) -> dict[int, HarmEstimate]:
    """The harm of each size at its learning rate; infinite where it trained worse.

    Empty where the losses of the current size can't be judged.
    """
    others = {size: training for size, training in settled.items() if training is not reference}
    curves = {size: loss_curve(t, course.samples) for size, t in others.items() if size in sizes}
    gains = {size: rate.log_gain for size, rate in rates.items()}
    harms = estimate_harms(course, sizes, curves, gains)
    worse = {veto.batch_size for veto in check.vetoed} | {
        size for size, training in others.items() if loss_curves.why_worse(reference, training)
    }
    return {size: _WORSE if size in worse else harm for size, harm in harms.items()}

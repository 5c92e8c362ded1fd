"""Pure: loss curves of short trainings, compared at one loss and at equal steps.

Steps to the same loss give the cost of a batch size, whatever its learning rate and its time were (Shallue et
al. 2018). At equal steps a larger batch has seen more samples. Its loss is worse only if its learning rate or
its size is at fault (Godbole et al. 2023, "Deep Learning Tuning Playbook": the steps needed never increase
with the batch size).

Losses are those on held-out samples, steps are optimizer steps, gaps are differences of ln(loss).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from statistics import fmean, median, stdev

from autobatch.decision.constants import (
    FEWEST_STEPS,
    MOST_TRAINED_SIZES,
    POOLED,
    RESOLUTION,
    TOLERANCE,
    WORST_GAP,
)
from autobatch.decision.quantiles import student_t
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome

# (steps, seconds, loss) of each evaluation.
_Curve = Sequence[tuple[int, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Steps and seconds to one loss: pairs of a batch size that reached it, and its `steps` or `seconds`."""

    loss: float
    steps: tuple[tuple[int, float], ...]
    seconds: tuple[tuple[int, float], ...]


def best_of_each(trainings: Sequence[Training]) -> dict[int, Training]:
    """The training at each size that ended at the lowest loss; the last of a size if all failed.

    The lower learning rate wins a tie, as lower rates gain towards the end.
    """
    best: dict[int, Training] = {}
    for training in trainings:
        other = best.get(training.batch_size)
        if other is None or _ends_lower(training, other):
            best[training.batch_size] = training
    return best


def _ends_lower(training: Training, other: Training) -> bool:
    if training.learning_rate_factor <= other.learning_rate_factor:
        return _end(training) <= (1 + TOLERANCE) * _end(other)
    return (1 + TOLERANCE) * _end(training) < _end(other)


def about_sizes(reference_size: int, trainings: Sequence[Training]) -> list[Training]:
    """The trainings that tell sizes apart: the first of each size, and at other sizes lower rates too.

    A raised rate needs fewer steps at any size.
    """
    first: dict[int, Training] = {}
    for training in trainings:
        first.setdefault(training.batch_size, training)
    return [
        training
        for training in trainings
        if training is first[training.batch_size]
        or (
            training.batch_size != reference_size
            and training.learning_rate_factor <= first[training.batch_size].learning_rate_factor
        )
    ]


def sound(reference_size: int, trainings: Sequence[Training]) -> list[Training]:
    """The best training at each size that is not worse than the one at the reference size."""
    best = best_of_each(trainings)
    reference = best.get(reference_size)
    return [t for t in best.values() if reference is None or not why_worse(reference, t)]


def match(trainings: Sequence[Training]) -> Matched | None:
    """Steps to the lowest loss that all trainings fall to, or three of four; None if they don't."""
    best = best_of_each(trainings)
    curves = {
        size: smoothed(t, _reach(len(t.evaluations))) for size, t in best.items() if t.outcome is Outcome.OK
    }
    lowest = sorted(min((loss for _, _, loss in curve), default=0.0) for curve in curves.values() if curve)
    if len(lowest) < 2:
        return None
    # A fourth size that lags does not hold back the others; with fewer, each one is needed.
    loss = lowest[min(len(lowest), MOST_TRAINED_SIZES - 1) - 1]
    reached = [
        (size, at)
        for size, curve in curves.items()
        if _starts_above(curve, loss) and (at := crossing(curve, loss)) is not None
    ]
    if len(reached) < 2:
        return None
    return Matched(
        loss=loss,
        steps=tuple((size, steps) for size, (steps, _) in reached),
        seconds=tuple((size, seconds) for size, (_, seconds) in reached),
    )


def why_worse(reference: Training, other: Training) -> str:
    """The reason to reject a training beside the one at the reference size; empty if there is none.

    Rejected are trainings that diverged or failed. At a larger size, also those whose ln(loss) at equal
    steps is higher by more than 0.10 and by more than the 90% interval over the held-out parts, and
    those whose loss did not fall in the time in which the reference's fell by 0.10. Losses that aren't
    positive, and trainings with few common steps, are not judged.
    """
    if other.outcome is Outcome.DIVERGED:
        return f"the training diverged after {other.steps:,} steps"
    if other.outcome is not Outcome.OK:
        return f"the training ended: {other.detail or str(other.outcome).replace('_', ' ')}"
    if other.batch_size <= reference.batch_size:
        return ""
    reference_fall, fall = _fall(reference), _fall(other)
    if reference_fall is not None and fall is not None and reference_fall > WORST_GAP and fall < RESOLUTION:
        return f"its loss did not fall in {other.steps:,} steps: {fmean(other.evaluations[-1].losses):.3g}"
    return _higher_loss(reference, other)


def _higher_loss(reference: Training, other: Training) -> str:
    """The reason where the loss at equal steps is significantly higher; empty where it is not."""
    pairs = _at_equal_steps(reference, other)
    if not pairs or min(loss for pair in pairs for evaluation in pair for loss in evaluation.losses) <= 0:
        return ""
    # A training at the edge of what its learning rate allows has spikes: the median pair is free of them.
    expected, actual = sorted(pairs, key=lambda pair: fmean(_gaps(*pair)))[len(pairs) // 2]
    gaps = _gaps(expected, actual)
    error = student_t(len(gaps) - 1) * stdev(gaps) / sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    if fmean(gaps) <= max(WORST_GAP, error):
        return ""
    return (
        f"loss {fmean(actual.losses):.3g} against {fmean(expected.losses):.3g} at {reference.batch_size:,} "
        f"after {actual.steps:,} steps each"
    )


def _gaps(expected: Evaluation, actual: Evaluation) -> list[float]:
    """Differences of ln(loss), for each held-out part."""
    return [log(loss / other) for loss, other in zip(actual.losses, expected.losses, strict=True)]


def _end(training: Training) -> float:
    """The median loss of the last evaluations; infinite for a training that failed."""
    if training.outcome is not Outcome.OK or not training.evaluations:
        return inf
    return median(fmean(evaluation.losses) for evaluation in training.evaluations[-POOLED:])


def _fall(training: Training) -> float | None:
    """The fall of ln(loss) from the first evaluation to the last; None where it can't be judged."""
    if len(training.evaluations) < 2 or training.steps < FEWEST_STEPS:
        return None
    first, last = (fmean(training.evaluations[place].losses) for place in (0, -1))
    return log(first / last) if min(first, last) > 0 else None


def _at_equal_steps(reference: Training, other: Training) -> list[tuple[Evaluation, Evaluation]]:
    """The last evaluations that both have after the same number of steps."""
    by_steps = {evaluation.steps: evaluation for evaluation in reference.evaluations}
    common = [(by_steps[actual.steps], actual) for actual in other.evaluations if actual.steps in by_steps]
    common = [pair for pair in common if len(pair[0].losses) == len(pair[1].losses)]
    return common[-POOLED:] if common and common[-1][0].steps >= FEWEST_STEPS else []


def smoothed(training: Training, reach: int) -> _Curve:
    """(steps, seconds, loss) of the evaluations, the loss a median over `reach` neighbours on each side.

    It leaves out the spikes and dips of a training at the edge of what its learning rate allows.
    """
    losses = [fmean(evaluation.losses) for evaluation in training.evaluations]
    return [
        (evaluation.steps, evaluation.seconds, median(losses[i - reach : i + reach + 1]))
        for i, evaluation in enumerate(training.evaluations)
        if reach <= i < len(losses) - reach
    ]


def _reach(evaluations: int) -> int:
    """Neighbours on each side that a loss is smoothed over."""
    return 2 if evaluations > 2 * POOLED else 1


def _starts_above(curve: _Curve, loss: float) -> bool:
    return bool(curve) and min(smooth for _, _, smooth in curve[:2]) > loss


def crossing(curve: _Curve, loss: float) -> tuple[float, float] | None:
    """Steps and seconds after which a curve first is at or below `loss`, interpolated over ln(steps)."""
    first = next((i for i, (_, _, smooth) in enumerate(curve) if smooth <= loss), None)
    if first is None:
        return None
    if first == 0:
        return curve[0][0], curve[0][1]
    (steps, seconds, high), (more_steps, more_seconds, low) = curve[first - 1], curve[first]
    share = (high - loss) / (high - low)
    return steps * (more_steps / steps) ** share, seconds + (more_seconds - seconds) * share

"""Pure: what short trainings at several batch sizes say, compared at one loss and at equal steps.

Steps to one and the same loss tell what a batch size costs, whatever its learning rate and its time were
(Shallue et al. 2018). At equal steps a larger batch sees more samples, so it has no excuse for a worse loss:
where it has one, its learning rate or its size is at fault (Godbole et al. 2023, "Deep Learning Tuning
Playbook": the steps needed never increase with the batch size).

Losses are those on samples held out, steps are optimizer steps, gaps are differences of ln(loss).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import fmean, median, stdev

from autobatch.decision.constants import (
    ENOUGH_TRAININGS,
    FEWEST_JUDGED_STEPS,
    POOLED,
    RESOLUTION,
    TOLERANCE,
    WORST_GAP,
    WORST_GAP_ERRORS,
)
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """What it took to one loss: pairs of a batch size that reached it, and its `steps` or `seconds`.

    `pooled`: a geometric mean of the steps to this and to higher losses. The law holds at each of them, with
    an S_min of its own, so the ratios between sizes are the same, with less noise.
    """

    loss: float
    steps: tuple[tuple[int, float], ...]
    seconds: tuple[tuple[int, float], ...]
    pooled: tuple[tuple[int, float], ...]


def best_of_each(trainings: Sequence[Training]) -> dict[int, Training]:
    """The training at each size that ended at the lowest loss; the last one, if all of them failed.

    A later one has the lower learning rate: being as good is enough, as a lower one gains towards the end.
    """
    found: dict[int, Training] = {}
    for training in trainings:
        other = found.get(training.batch_size)
        if other is None or _end(training) <= (1 + TOLERANCE) * _end(other):
            found[training.batch_size] = training
    return found


def sound(reference_size: int, trainings: Sequence[Training]) -> list[Training]:
    """The best training at each size, without those that are to be rejected beside that of the base size."""
    found = best_of_each(trainings)
    own = found.get(reference_size)
    return [one for one in found.values() if own is None or not why_worse(own, one)]


def match(trainings: Sequence[Training]) -> Matched | None:
    """Steps to the lowest loss that two of two, or three of more, trainings fall to; None if they don't."""
    curves = {
        size: _smoothed(one) for size, one in best_of_each(trainings).items() if one.outcome is Outcome.OK
    }
    lowest = sorted(min((loss for _, _, loss in curve), default=0.0) for curve in curves.values() if curve)
    if len(lowest) < 2:
        return None
    loss = lowest[min(len(lowest), ENOUGH_TRAININGS) - 1]
    reached = {size: curve for size, curve in curves.items() if _falls_to(curve, loss)}
    if len(reached) < 2:
        return None
    levels = _levels(list(reached.values()), loss)
    crossings = {size: [_crossing(curve, level) for level in levels] for size, curve in reached.items()}
    return Matched(
        loss=loss,
        steps=tuple((size, found[-1][0]) for size, found in crossings.items()),
        seconds=tuple((size, found[-1][1]) for size, found in crossings.items()),
        pooled=tuple((size, exp(fmean(log(steps) for steps, _ in one))) for size, one in crossings.items()),
    )


def why_worse(own: Training, other: Training) -> str:
    """Why a training at a larger size than the user's `own` is to be rejected; empty where it is not.

    It is where it diverged or failed; where ln(loss) at equal steps is higher by more than 0.10 and by
    more than twice the standard error over the parts of the samples held out; and where it did not
    fall at all in the time in which the own one fell by 0.10. Losses that aren't positive and trainings of
    few common steps are not judged.
    """
    if other.outcome is Outcome.DIVERGED:
        return f"the training diverged after {other.steps:,} steps"
    if other.outcome is not Outcome.OK:
        what = str(other.outcome).replace("_", " ")
        return f"the training ended: {other.detail or what}"
    if other.batch_size <= own.batch_size:
        return ""
    own_fall, fall = _fall(own), _fall(other)
    if own_fall is not None and fall is not None and own_fall > WORST_GAP and fall < RESOLUTION:
        return f"its loss did not fall in {other.steps:,} steps: {fmean(other.evaluations[-1].losses):.3g}"
    pairs = _at_equal_steps(own, other)
    if not pairs or min(loss for pair in pairs for one in pair for loss in one.losses) <= 0:
        return ""
    # A training at the edge of what its learning rate allows has spikes: the median pair is free of them.
    mine, theirs = sorted(pairs, key=lambda pair: fmean(_gaps(*pair)))[len(pairs) // 2]
    gaps = _gaps(mine, theirs)
    error = stdev(gaps) / sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    if fmean(gaps) <= max(WORST_GAP, WORST_GAP_ERRORS * error):
        return ""
    return (
        f"loss {fmean(theirs.losses):.3g} against {fmean(mine.losses):.3g} at {own.batch_size:,} "
        f"after {theirs.steps:,} steps each"
    )


def _gaps(mine: Evaluation, theirs: Evaluation) -> list[float]:
    """Differences of ln(loss) part by part."""
    return [log(one / other) for one, other in zip(theirs.losses, mine.losses, strict=True)]


def _end(training: Training) -> float:
    """The median loss of the last evaluations; infinite for a training that failed."""
    if training.outcome is not Outcome.OK or not training.evaluations:
        return inf
    return median(fmean(one.losses) for one in training.evaluations[-POOLED:])


def _fall(training: Training) -> float | None:
    """By how much ln(loss) fell from the first evaluation to the last; None where that can't be told."""
    if len(training.evaluations) < 2 or training.steps < FEWEST_JUDGED_STEPS:
        return None
    first, last = (fmean(training.evaluations[place].losses) for place in (0, -1))
    return log(first / last) if min(first, last) > 0 else None


def _at_equal_steps(own: Training, other: Training) -> list[tuple[Evaluation, Evaluation]]:
    """The last evaluations that both have after the same number of steps."""
    mine = {one.steps: one for one in own.evaluations}
    common = [(mine[one.steps], one) for one in other.evaluations if one.steps in mine]
    common = [pair for pair in common if len(pair[0].losses) == len(pair[1].losses)]
    return common[-POOLED:] if common and common[-1][0].steps >= FEWEST_JUDGED_STEPS else []


def _smoothed(training: Training) -> list[tuple[int, float, float]]:
    """(steps, seconds, loss) of the evaluations, the loss a median over neighbours on both sides.

    Spikes and dips of a training at the edge of what its learning rate allows are no progress.
    """
    losses = [fmean(one.losses) for one in training.evaluations]
    reach = 2 if len(losses) >= 12 else 1
    return [
        (one.steps, one.seconds, median(losses[i - reach : i + reach + 1]))
        for i, one in enumerate(training.evaluations)
        if reach <= i < len(losses) - reach
    ]


def _falls_to(curve: Sequence[tuple[int, float, float]], loss: float) -> bool:
    """Whether a curve falls to a loss that it has not reached from the start."""
    return min((one for _, _, one in curve), default=loss + 1) <= loss and all(
        one > loss for _, _, one in curve[:2]
    )


def _levels(curves: Sequence[Sequence[tuple[int, float, float]]], loss: float) -> list[float]:
    """Losses between the lowest common one and what each curve is below after half of the steps to that."""
    halfway = min(_loss_after(curve, _crossing(curve, loss)[0] / 2) for curve in curves)
    return [loss + max(halfway - loss, 0.0) * (1 - i / (POOLED - 1)) for i in range(POOLED)]


def _loss_after(curve: Sequence[tuple[int, float, float]], steps: float) -> float:
    return next((loss for at, _, loss in curve if at >= steps), curve[-1][2])


def _crossing(curve: Sequence[tuple[int, float, float]], loss: float) -> tuple[float, float]:
    """Steps and seconds where a curve that falls to `loss` first does, interpolated over ln(steps)."""
    above = 0
    while curve[above][2] > loss:
        above += 1
    if above == 0:
        return curve[0][0], curve[0][1]
    (steps, seconds, high), (more_steps, more_seconds, low) = curve[above - 1], curve[above]
    share = (high - loss) / (high - low)
    return steps * (more_steps / steps) ** share, seconds + (more_seconds - seconds) * share

"""Pure: the walk over learning rates at one batch size: which rate to train next, and which to recommend.

The rate of the rule is trained first, then twice the rate while that is faster to the same loss and ends
surely lower, and half of it where no raise was accepted. All trainings start from the same weights, see the
same samples in the same order and as many of them. Loss gaps after equal steps alone would mislead: early in
a training they favour rates that are too high for its end, by two octaves on one of five tasks. So the time
to the same loss decides as well.

Rates are multiples (`factor`) of the user's learning rates. Losses are those of held-out samples.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf, log, sqrt
from statistics import fmean, median, stdev

from autobatch.decision import loss_curves
from autobatch.decision.constants import (
    HARM_TOLERANCE,
    LAST_PART,
    MOST_TRAINED_SIZES,
    RAISE_FROM,
    RAISED_STEPS,
    SMOOTHED,
    TOLERANCE,
)
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RateWalk:
    """Where the walk stands.

    `factor`: the rate to recommend by the trainings so far. `next_factor`: the rate to train next, None at
    the end. `log_gain`: how much lower ln(final loss) may be expected than at the first rate, 0 or more.
    `trains`: the loss falls at that rate.
    """

    factor: float
    next_factor: float | None
    log_gain: float = 0.0
    trains: bool = True


def walk(trainings: Sequence[Training], share: float | None) -> RateWalk:
    """The walk from the rate of the first of these trainings, all at one batch size.

    `share`: the part of the user's training that each of them is; None where its length is unknown. A rate is
    raised from 10% on. To lower it, half of the evidence will do, as a rate that is too high costs more than
    a rate that is too low. Shorter trainings move nothing, but a rate that diverges is halved. A loss that
    does not fall at all calls for a quarter of the rate, a loss that hardly falls for four times the rate.
    """
    runs = {training.learning_rate_factor: training for training in reversed(trainings)}
    first = trainings[0]
    may_raise = share is not None and share >= RAISE_FROM
    may_lower = share is not None and share >= RAISE_FROM / 2
    factor, following = _replayed(_steps(first, may_raise, may_lower), runs)
    best = runs[factor]
    return RateWalk(
        factor=factor,
        next_factor=following,
        log_gain=_final_loss_credit(first, best),
        trains=trains(best),
    )


# Yields the best factor so far and the one to train next, is sent its training, and returns the best factor.
_Walk = Generator[tuple[float, float], Training, float]


def _replayed(steps: _Walk, runs: Mapping[float, Training]) -> tuple[float, float | None]:
    """The best factor by these trainings, and the first factor that they lack; None where they lack none."""
    try:
        best, following = next(steps)
        while following in runs:
            best, following = steps.send(runs[following])
    except StopIteration as end:
        return end.value, None
    return best, following


def _steps(first: Training, may_raise: bool, may_lower: bool) -> _Walk:
    start = first.learning_rate_factor
    best, left, raises = first, MOST_TRAINED_SIZES - 1, 2 if may_raise else 0
    if not trains(first):
        diverged = first.outcome is Outcome.DIVERGED
        if diverged:
            raises = 0
        for leap in _leaps(first, may_raise, may_lower):
            left, run = left - 1, (yield start, leap)
            if trains(run) or (diverged and run.outcome is Outcome.OK):
                best = run
                break
        else:
            return start
    reached = factor = best.learning_rate_factor
    while left and raises:
        run = yield factor, 2 * factor
        left, raises = left - 1, raises - 1
        if not _is_better(run, best, RAISED_STEPS):
            break
        best, factor = run, 2 * factor
    while left and may_lower and factor <= reached:
        run = yield factor, factor / 2
        left -= 1
        if not _is_better(run, best, (1 + RAISED_STEPS) / 2):
            break
        best, factor = run, factor / 2
    return factor


def _leaps(first: Training, may_raise: bool, may_lower: bool) -> list[float]:
    """The rates that may train where the first does not, the likelier one first."""
    start = first.learning_rate_factor
    if first.outcome is Outcome.DIVERGED:
        return [start / 2]
    if first.outcome is not Outcome.OK:
        return []
    leaps = [start / 4] * may_lower + [4 * start] * may_raise
    return leaps[::-1] if _fall(first) > 0 else leaps


def _is_better(run: Training, best: Training, most_steps: float) -> bool:
    """Whether a rate is faster to the loss of the best one so far, and ends surely lower."""
    if not trains(run) or relative_steps(run, best) >= most_steps:
        return False
    return _final_loss_credit(best, run) > 0 or not trains(best)


def trains(training: Training) -> bool:
    """Whether the loss fell by 2% of its first value, and the training did not fail."""
    if training.outcome is not Outcome.OK or len(training.evaluations) < 2:
        return False
    return _fall(training) >= HARM_TOLERANCE * abs(fmean(training.evaluations[0].losses))


def _fall(training: Training) -> float:
    """The fall of the loss from its first value; 0 without evaluations."""
    return fmean(training.evaluations[0].losses) - end_loss(training) if training.evaluations else 0.0


def end_loss(training: Training) -> float:
    """The median loss of the last evaluations."""
    return median(fmean(e.losses) for e in training.evaluations[-SMOOTHED:])


def relative_steps(training: Training, other: Training) -> float:
    """Steps of a training over those of another one to the same loss: the higher of their two last losses.

    Infinite where neither falls to the last loss of the other. A curve that is flat or rises towards its end
    was at its last loss before.
    """
    curve, reference = (loss_curves.smoothed(each, SMOOTHED // 2) for each in (training, other))
    for ended in (reference, curve):
        level = ended[-1][2] if ended else -inf
        reached = loss_curves.crossing(curve, level)
        reference_reached = loss_curves.crossing(reference, level)
        if reached is not None and reference_reached is not None:
            return reached[0] / reference_reached[0]
    return inf


def _final_loss_credit(former: Training, training: Training) -> float:
    """By how much ln(final loss) may be expected to be lower with another rate at the same size; 0 or more.

    Both trainings are compared over the last quarter of their common steps, part by part of the held-out
    samples. A lead of more than 2% beyond two standard errors, over parts and over time, counts by half, and
    by 5% at most: leads shrink later on.
    """
    if not (trains(former) and trains(training)):
        return 0.0
    pairs = _common(former, training)
    last = [pair for pair in pairs if pair[0].steps > (1 - LAST_PART) * pairs[-1][0].steps]
    pairs = last if len(last) >= SMOOTHED else pairs[-SMOOTHED:]
    if not pairs or min(loss for pair in pairs for e in pair for loss in e.losses) <= 0:
        return 0.0
    leads = [
        [log(a / b) for a, b in zip(before.losses, after.losses, strict=True)] for before, after in pairs
    ]
    over_time = [fmean(parts) for parts in leads]
    # The losses of a script's steps are no parts that come again.
    has_same_parts = len({len(parts) for parts in leads}) == 1
    over_parts = [fmean(times) for times in zip(*leads, strict=True)] if has_same_parts else []
    lead = fmean(over_time)
    # Neighbouring evaluations share their noise.
    error = hypot(_error(over_parts, len(over_parts)), _error(over_time, len(over_time) / SMOOTHED))
    if lead - 2 * error <= HARM_TOLERANCE:
        return 0.0
    return min(lead / 2, log(1 + TOLERANCE))


def _error(values: Sequence[float], independent: float) -> float:
    """The standard error of the mean of so many independent values."""
    return stdev(values) / sqrt(independent) if len(values) > 1 else 0.0


def _common(former: Training, training: Training) -> list[tuple[Evaluation, Evaluation]]:
    """The evaluations after equal steps, on the same parts of the held-out samples."""
    before = {e.steps: e for e in former.evaluations}
    pairs = [(before[e.steps], e) for e in training.evaluations if e.steps in before]
    return [(a, b) for a, b in pairs if len(a.losses) == len(b.losses)]

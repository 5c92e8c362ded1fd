"""Pure: the walk over learning rates at one batch size: which rate to train next, and which to recommend.

The user's rate is trained first, then twice the rate while that is faster to the same loss, and half of it
where no raise was accepted. All trainings start from the same weights, see the same samples in the same order
and take the same time. Loss gaps after equal steps would mislead: early in a training they favour rates that
are too high for its end, by two octaves on one of five tasks. So the time to the same loss decides.

Rates are multiples (`factor`) of the user's learning rates. Losses are those of held-out samples.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log, sqrt
from statistics import fmean, median, stdev

from autobatch.decision.constants import HARM_TOLERANCE, SMOOTHED, TOLERANCE
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome

# A training of at least this share of the user's training may raise the rate, or lower it. On five tasks and
# from a quarter to four times the best rate, the walk ended at rates that cost 40% of time on average with
# trainings of 5%, 18% with 10%, and 13% with 20%. Larger shares take more of the budget.
RAISE_FROM, LOWER_FROM = 0.10, 0.05
# A raised rate has to reach the former end loss in the first share of its steps, a lowered one in the second:
# a rate that is too high costs more than a rate that is too low.
RAISED_STEPS, LOWERED_STEPS = 0.8, 0.9
# Trainings beyond the first: on those tasks the walk cost 0.31 of a whole training with runs of 10%.
MOST_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RateWalk:
    """Where the walk stands.

    `factor`: the rate to recommend by the trainings so far. `next_factor`: the rate to train next, None at
    the end. `shown_factor`: the best rate of the trainings. Where it differs from `factor`, they are too
    short a part of the user's training to recommend it.
    """

    factor: float
    next_factor: float | None
    shown_factor: float


def walk(start: float, trainings: Sequence[Training], share: float | None) -> RateWalk:
    """The walk from the factor `start`, by trainings at one batch size.

    `share`: the part of the user's training that each of them is. None where its length is unknown: then, as
    below 5%, nothing is trained and nothing moves.
    """
    runs = {training.learning_rate_factor: training for training in trainings}
    may_raise = share is not None and share >= RAISE_FROM
    may_lower = share is not None and share >= LOWER_FROM
    factor, following = _replayed(_steps(start, may_raise, may_lower), runs)
    shown, _ = _replayed(_steps(start, True, True), runs)
    return RateWalk(
        factor=factor, next_factor=following if may_raise or may_lower else None, shown_factor=shown
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


def _steps(start: float, may_raise: bool, may_lower: bool) -> _Walk:
    best = yield start, start
    factor, left = start, MOST_RUNS
    if not trains(best):
        leaps = [start / 4] * may_lower + [4 * start] * may_raise
        left -= len(leaps)
        landed: list[Training] = []
        for leap in leaps:
            landed.append((yield factor, leap))
        landed = [run for run in landed if trains(run)]
        if not landed:
            return start
        best = min(landed, key=end_loss)
        factor = best.learning_rate_factor
    reached, raises = factor, 2 if may_raise else 0
    while left and raises:
        run = yield factor, 2 * factor
        left, raises = left - 1, raises - 1
        if not trains(run) or relative_steps(run, best) >= RAISED_STEPS:
            break
        best, factor = run, 2 * factor
    while left and may_lower and factor <= reached:
        run = yield factor, factor / 2
        left -= 1
        if not trains(run) or relative_steps(run, best) >= LOWERED_STEPS:
            break
        best, factor = run, factor / 2
    return factor


def trains(training: Training) -> bool:
    """Whether the loss fell by 2% of its first value, and the training did not fail."""
    if training.outcome is not Outcome.OK or len(training.evaluations) < 2:
        return False
    first = fmean(training.evaluations[0].losses)
    return first - end_loss(training) >= HARM_TOLERANCE * abs(first)


def end_loss(training: Training) -> float:
    """The median loss of the last evaluations."""
    return median(fmean(e.losses) for e in training.evaluations[-SMOOTHED:])


def relative_steps(training: Training, other: Training) -> float:
    """Steps of a training over those of another one to the same loss: the higher of their two last losses.

    Infinite where neither falls to the last loss of the other.
    """
    curve, reference = _smoothed(training), _smoothed(other)
    reached = _crossing(curve, reference[-1][1])
    if reached is not None:
        return reached / reference[-1][0]
    reached = _crossing(reference, curve[-1][1])
    return inf if reached is None else curve[-1][0] / reached


def _smoothed(training: Training) -> list[tuple[float, float]]:
    """Steps and the median loss of the evaluations up to there. The first weights count as half a step."""
    losses = [fmean(e.losses) for e in training.evaluations]
    return [
        (max(e.steps, 0.5), median(losses[max(0, i + 1 - SMOOTHED) : i + 1]))
        for i, e in enumerate(training.evaluations)
    ]


def _crossing(curve: Sequence[tuple[float, float]], loss: float) -> float | None:
    """The steps after which a curve first is at or below `loss`, interpolated over ln(steps)."""
    if curve[0][1] <= loss:
        return curve[0][0]
    for (steps, high), (more_steps, low) in pairwise(curve):
        if low <= loss:
            return float(steps * (more_steps / steps) ** ((high - loss) / (high - low)))
    return None


def final_loss_credit(former: Training, training: Training) -> float:
    """By how much ln(final loss) may be expected to be lower with another rate at the same size; 0 or more.

    Both trainings are compared by their last common evaluations, part by part of the held-out samples. A lead
    of more than 2% beyond two standard errors counts by half, and by 5% at most: leads shrink later on.
    """
    if not (trains(former) and trains(training)):
        return 0.0
    pairs = _common(former, training)[-SMOOTHED:]
    if not pairs or min(loss for pair in pairs for e in pair for loss in e.losses) <= 0:
        return 0.0
    leads = [
        fmean(log(before / after) for before, after in parts)
        for parts in zip(*(zip(a.losses, b.losses, strict=True) for a, b in pairs), strict=True)
    ]
    lead = fmean(leads)
    error = stdev(leads) / sqrt(len(leads)) if len(leads) > 1 else 0.0
    if lead - 2 * error <= HARM_TOLERANCE:
        return 0.0
    return min(lead / 2, log(1 + TOLERANCE))


def _common(former: Training, training: Training) -> list[tuple[Evaluation, Evaluation]]:
    """The evaluations after equal steps, on the same parts of the held-out samples."""
    before = {e.steps: e for e in former.evaluations}
    pairs = [(before[e.steps], e) for e in training.evaluations if e.steps in before]
    return [(a, b) for a, b in pairs if len(a.losses) == len(b.losses)]

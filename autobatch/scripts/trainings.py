"""Pure: the losses of a short training's steps as the evaluations that loss curves are compared by.

A script has no samples held out, so each window of steps is judged by the training loss of its batches, which
are new to the model until the data repeat. All trainings have the same windows, in the same number of parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil, isfinite
from statistics import fmean

from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome

# Windows end after 4, 5, 6, 8, 10, 12 ... steps.
_FIRST, _GROWTH = 4, 1.2
_MOST_PARTS = 8


def training_of(
    batch_size: int, learning_rate_factor: float, losses: Sequence[float | None], seconds: Sequence[float]
) -> Training:
    """The record of a training; one whose loss stopped being a number has diverged."""
    numbers = [loss for loss in losses if loss is not None and isfinite(loss)]
    diverged = len(numbers) < len(losses)
    steps = losses.index(next(x for x in losses if x is None or not isfinite(x))) if diverged else len(losses)
    return Training(
        batch_size=batch_size,
        learning_rate_factor=learning_rate_factor,
        outcome=Outcome.DIVERGED if diverged else Outcome.OK,
        steps=steps,
        seconds=sum(seconds),
        evaluations=() if diverged else evaluations_of(numbers, seconds),
        detail="the loss became infinite or not a number" if diverged else "",
    )


def evaluations_of(losses: Sequence[float], seconds: Sequence[float]) -> tuple[Evaluation, ...]:
    """One evaluation at the end of each window."""
    passed = list(accumulate(seconds))
    evaluations, begin, end = [], 0, _FIRST
    while end <= len(losses):
        window = losses[begin:end]
        parts = min(_MOST_PARTS, len(window))
        cuts = [len(window) * part // parts for part in range(parts + 1)]
        means = tuple(fmean(window[a:b]) for a, b in pairwise(cuts))
        evaluations.append(Evaluation(steps=end, seconds=passed[end - 1], losses=means))
        begin, end = end, max(end + 1, ceil(_GROWTH * end))
    return tuple(evaluations)

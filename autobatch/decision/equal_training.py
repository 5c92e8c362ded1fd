"""Pure: which size, at which learning rate, is trained next for the user's epochs.

The reference comes first. Where its loss does not fall, lower rates come next, until it does: beside a
training that learns nothing, any size looks safe.
Sizes go upwards from the reference as long as they are safe. Then learning rates are tried at the size that
is decided for. A rate that was raised there is tried at the next larger size too, which may be safe with it.
Where the rate was changed, it is tried at the reference last, so that its gain can be told from that of the
size.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2

from autobatch.decision.constants import MOST_TRAINED_SIZES, TOLERANCE
from autobatch.decision.judgement import Judgement
from autobatch.decision.next_training import Run
from autobatch.records.recommendation import SameEpochs


def next_run(judgement: Judgement, rule: Callable[[int], float]) -> Run | None:
    """The training to run next, for as many epochs as the reference; None where no training can tell more.

    `rule`: the factor of the learning rates at a size by the noise rule. Trainings that cover the user's
    epochs, or stand for them, are compared size by size from the reference upwards, as long as the sizes are
    safe and may be faster. Shorter ones only confirm the decision.
    """
    repair = _repair(judgement)
    if repair is not None or not judgement.harms:
        return repair
    larger = _next_size(judgement, rule) if judgement.is_whole else _confirmation(judgement, rule)
    if larger is not None:
        return larger
    decided = judgement.decision.batch_size
    sizes = [decided, judgement.reference] if _octaves(judgement, decided, rule) else [decided]
    factors = ((size, judgement.next_factor(size)) for size in sizes)
    runs = (Run(batch_size=size, learning_rate_factor=f) for size, f in factors if f is not None)
    return next(runs, None)


def may_be_faster(judgement: Judgement) -> list[SameEpochs]:
    """The rows of the sizes that may be faster than the reference by 5% or more."""
    return [
        row
        for row in judgement.rows
        if row.batch_size != judgement.reference and row.interval[1] >= 1 + TOLERANCE
    ]


def octaves_below(judgement: Judgement, size: int, rule: Callable[[int], float]) -> int:
    """How many doublings of the rule's rate were better, at the largest trained size up to `size`."""
    trained = [each for each in judgement.rates if each <= size]
    return _octaves(judgement, max(trained, default=judgement.reference), rule)


def _repair(judgement: Judgement) -> Run | None:
    """The reference at a lower rate where its loss does not fall; a size that diverged, at half its rate."""
    stuck = [judgement.reference] if judgement.is_stuck else []
    for size in (*stuck, *judgement.diverged):
        factor = judgement.next_factor(size)
        if factor is not None and factor < judgement.rates[size].factor:
            return Run(batch_size=size, learning_rate_factor=factor)
    return None


def _confirmation(judgement: Judgement, rule: Callable[[int], float]) -> Run | None:
    decided = judgement.decision.batch_size
    if decided in judgement.rates:
        return None
    return Run(batch_size=decided, learning_rate_factor=rule(decided))


def _next_size(judgement: Judgement, rule: Callable[[int], float]) -> Run | None:
    """The next larger size, at the rate of the rule times the factor by which the walk changed it so far."""
    changed = octaves_below(judgement, judgement.decision.batch_size, rule)
    for row in may_be_faster(judgement):
        size = row.batch_size
        if size <= judgement.reference:
            continue
        if size not in judgement.rates:
            is_full = len(judgement.rates) >= MOST_TRAINED_SIZES
            return None if is_full else Run(batch_size=size, learning_rate_factor=2.0**changed * rule(size))
        if not row.safe:
            factor = judgement.next_factor(size)
            raises = factor is not None and factor > judgement.rates[size].factor
            if factor is None or not raises or _octaves(judgement, size, rule) >= changed:
                return None
            return Run(batch_size=size, learning_rate_factor=factor)
    return None


def _octaves(judgement: Judgement, size: int, rule: Callable[[int], float]) -> int:
    """How many doublings of the rule's rate the trained rate of a size is; 0 for an untrained size.

    Rounded, as the rule itself moves a little with each training.
    """
    rate = judgement.rates.get(size)
    return 0 if rate is None else round(log2(rate.factor / rule(size)))

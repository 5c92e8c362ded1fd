"""The word that marks a size beside the answer, in every table and chart."""

from __future__ import annotations

from autobatch.records.check import Veto
from autobatch.records.recommendation import Recommendation, SameEpochs

RECOMMENDED, CURRENT, REFERENCE, VETOED = "recommended", "current", "reference", "vetoed"
# Before the change of the final loss, as in `loss +8%`.
HIGHER_LOSS = "loss "
_MOST_PERCENT = 999


def mark_of(size: int, recommendation: Recommendation) -> str:
    """Return the mark of a size: the current, recommended or reference one, or a size that trains worse."""
    if size == recommendation.workload.batch_size:
        return CURRENT
    if size == recommendation.batch_size and not recommendation.stopped:
        return RECOMMENDED
    if size == reference(recommendation):
        return REFERENCE
    if veto_of(size, recommendation) is not None:
        return VETOED
    row = next((row for row in recommendation.same_epochs if row.batch_size == size), None)
    return "" if row is None else _unsafe_mark(row)


def _unsafe_mark(row: SameEpochs) -> str:
    """Return the change of the final loss for a size that is not safe; empty where it is unknown."""
    if row.safe or row.harm is None or not row.harm > 1:
        return ""
    percent = 100 * (row.harm - 1)
    return f"{HIGHER_LOSS}+{percent:.0f}%" if percent <= _MOST_PERCENT else f"{HIGHER_LOSS}>+{_MOST_PERCENT}%"


def is_answer(size: int, recommendation: Recommendation) -> bool:
    """True for the recommended size, unless the search ended without a recommendation."""
    return size == recommendation.batch_size and not recommendation.stopped


def reference(recommendation: Recommendation) -> int | None:
    """The size that the others are compared with: alone, its speedup of 1 has no error."""
    exact = (row.batch_size for row in recommendation.same_epochs if row.interval == (1.0, 1.0))
    return next(exact, None)


def veto_of(size: int, recommendation: Recommendation) -> Veto | None:
    """Return the veto of the check against a size."""
    vetoes = () if recommendation.check is None else recommendation.check.vetoed
    return next((veto for veto in vetoes if veto.batch_size == size), None)

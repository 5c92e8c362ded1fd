"""Pure: how a script's loss depends on the batch size, by its jumps where the size changes."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import fmean, median

# A mean stays (exponent 0), a sum grows with the samples (exponent 1).
_SUMMED_EXPONENT = 0.5
# Sizes that are closer than this factor say little: the loss varies by itself.
_APART = 1.9


class LossGrowth:
    """Collects losses on both sides of changes of size, at weights that hardly differ."""

    def __init__(self) -> None:
        self._exponents: list[float] = []

    def add(self, size: int, loss: float | None, larger_size: int, loss_of_larger: float | None) -> None:
        """The loss at a size, and right after it that at a larger one.

        Training lowers the loss between the two, so a larger size that comes first would look like a sum.
        Pairs in that order are ignored, and so are losses that are unknown or no positive number.
        """
        if loss is None or loss_of_larger is None or min(loss, loss_of_larger) <= 0:
            return
        ratio = larger_size / size
        if ratio >= _APART:
            self._exponents.append(log(loss_of_larger / loss) / log(ratio))

    @property
    def is_summed(self) -> bool:
        """True where the loss grows with the batch size, as a sum over samples does."""
        return bool(self._exponents) and median(self._exponents) > _SUMMED_EXPONENT


def first_loss(losses: Sequence[float | None]) -> float | None:
    """The mean of the first few losses of a process; None where one is no number."""
    few = [loss for loss in losses[:3] if loss is not None]
    return fmean(few) if len(few) == len(losses[:3]) and few else None

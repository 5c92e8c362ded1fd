"""Pure: how the loss of a batch follows from its samples, by halves of a batch beside the whole.

From the same weights, with A and B the halves of a batch AB, and AA the first half twice:

    mean    L(AB) = w L(A) + (1 - w) L(B),  w = 1/2 unless samples weigh differently,  L(AA) = L(A)
    sum     L(AB) = L(A) + L(B),  L(AA) = 2 L(A)

and the same for the gradients. Where L(AB) follows from the halves to the precision of the arithmetic, a
single batch decides. It does not where a layer draws random numbers, or where parts of a loss have weights of
their own, such as a mean over boxes beside a mean over images. Then several batches decide: the residuals of
the right equations have no common part. A loss that depends on the rest of the batch has one in L(AB), or its
L(AA) differs: a contrastive loss of few hard negatives grows with their number as a sum does, but the
duplicate of a sample is a hard negative.

The common part of K residuals r_k is estimated without bias by the U-statistic of their inner products,

    |E r|^2 ~ (|sum r_k|^2 - sum |r_k|^2) / (K (K - 1))

with the error of its delete-one jackknife (Efron and Stein 1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import fmean

from autobatch.decision.constants import FEWEST_CHUNKS, TOLERANCE, WORST_GAP
from autobatch.decision.quantiles import student_t
from autobatch.records.check import LossKind

# The passes over each batch, in this order.
_NAMES = ("first half", "second half", "whole", "first half twice", "first half again")
_PASSES = len(_NAMES)
_Factors = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Losses and gradients at the same weights, of A, B, AB, AA and A again, of one batch after the other.

    The last pass has random numbers of its own.

    `losses`: of all passes. `products`: inner products of all gradients; None where the loop hides them.
    """

    losses: tuple[float, ...]
    products: tuple[tuple[float, ...], ...] | None = None

    @property
    def batches(self) -> int:
        return len(self.losses) // _PASSES

    @property
    def are_finite(self) -> bool:
        return all(map(isfinite, self.losses)) and all(map(isfinite, sum(self.products or (), ())))

    def first(self, batches: int) -> Passes:
        """The passes of the first batches alone."""
        count = batches * _PASSES
        rows = None if self.products is None else tuple(row[:count] for row in self.products[:count])
        return Passes(losses=self.losses[:count], products=rows)


def exact_kind(passes: Passes, tolerance: float) -> LossKind | None:
    """The kind by L(AB) of the first batch alone.

    `tolerance`: of a residual, relative to the largest of the passes. None where neither holds, or both do.
    """
    weight = _best_weight(passes)
    is_mean = _residual(passes, (-weight, weight - 1, 1, 0, 0)) <= tolerance
    is_sum = _residual(passes, _of_union(1)) <= tolerance
    if is_mean == is_sum:
        return None
    return LossKind.MEAN if is_mean else LossKind.SUM


def likely_kind(passes: Passes, tolerance: float) -> LossKind:
    """The kind by the common part of the residuals of several batches; unknown where it stays open.

    A common part of less than 10% does not count: a term of a loss may depend on the batch a little.
    """
    if passes.batches < FEWEST_CHUNKS:
        return LossKind.UNKNOWN
    is_mean, is_sum = (_fits(passes, share, tolerance) for share in (0.5, 1))
    if is_mean is False and is_sum is False:
        # A penalty on the weights is no part of the sum: it is in the residual of each batch.
        if not _is_constant(passes, _of_union(1), tolerance):
            return LossKind.BATCH_DEPENDENT
        return LossKind.UNKNOWN if passes.products is None else LossKind.SUM
    if is_mean and not is_sum:
        return LossKind.MEAN
    return LossKind.SUM if is_sum and not is_mean else LossKind.UNKNOWN


def _of_union(share: float) -> _Factors:
    """The factors of the passes in L(AB) - share (L(A) + L(B)): 1/2 for a mean, 1 for a sum."""
    return -share, -share, 1, 0, 0


def _of_duplicates(share: float) -> _Factors:
    """The factors of the passes in L(AA) - 2 share L(A)."""
    return -2 * share, 0, 0, 1, 0


def _fits(passes: Passes, share: float, tolerance: float) -> bool | None:
    """Whether the equations of L(AB) and L(AA) hold but for noise; None where noise hides it."""
    scale = _loss_scale(passes)
    factors = _of_union(share), _of_duplicates(share)
    squares = [_common_square(_products_of_losses(passes, each)) for each in factors]
    if any(low > (WORST_GAP * scale) ** 2 for low, _ in squares) or _gradients_differ(passes, factors[0]):
        return False
    again = _loss_residuals(passes, (-1, 0, 0, 0, 1))
    is_repeatable = max(map(abs, again)) <= tolerance * scale
    if is_repeatable and max(map(abs, _loss_residuals(passes, factors[1]))) > TOLERANCE * scale:
        return False
    # Both equations differ by half of L(AB).
    return True if all(high <= (2 * WORST_GAP * scale) ** 2 for _, high in squares) else None


def _best_weight(passes: Passes) -> float:
    """The weight of the first half that a mean fits best with, by least squares; 1/2 without gradients."""
    if passes.products is None:
        return 0.5
    halves, rest = (1, -1, 0, 0, 0), (0, -1, 1, 0, 0)
    difference = _combined(passes, halves, halves)
    if difference <= 0:
        return 0.5
    return min(max(_combined(passes, rest, halves) / difference, 0.0), 1.0)


def _combined(passes: Passes, left: Sequence[float], right: Sequence[float]) -> float:
    """The inner product of two combinations of the first batch, losses and gradients in their own units."""
    of_losses = _dot(left, passes.losses) * _dot(right, passes.losses)
    parts = of_losses / (_loss_scale(passes) ** 2 or 1.0)
    return parts + _bilinear(passes, left, right) / (_gradient_scale(passes) ** 2 or 1.0)


def _residual(passes: Passes, factors: Sequence[float]) -> float:
    """A combination of the first batch, relative to the largest of its passes: of losses or of gradients."""
    first = passes.first(1)
    loss = abs(_dot(factors, first.losses)) / (_loss_scale(first) or 1.0)
    squared = max(0.0, _bilinear(first, factors, factors))
    return max(loss, sqrt(squared) / (_gradient_scale(first) or 1.0))


def _gradients_differ(passes: Passes, factors: Sequence[float]) -> bool:
    """True where the gradients' residuals have a common part above 10%."""
    if passes.products is None:
        return False
    places = range(0, len(passes.losses), _PASSES)
    products = [[_bilinear(passes, factors, factors, left, right) for right in places] for left in places]
    return _common_square(products)[0] > (WORST_GAP * _gradient_scale(passes)) ** 2


def _products_of_losses(passes: Passes, factors: Sequence[float]) -> list[list[float]]:
    residuals = _loss_residuals(passes, factors)
    return [[left * right for right in residuals] for left in residuals]


def _common_square(products: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The lower and upper bound of |E r|^2 from the inner products of the residuals."""
    every = range(len(products))
    estimate = _u_statistic(products, every)
    left_out = [_u_statistic(products, [k for k in every if k != out]) for out in every]
    centre = fmean(left_out)
    squares = sum((value - centre) ** 2 for value in left_out)
    half = student_t(len(products) - 1) * sqrt((len(products) - 1) / len(products) * squares)
    return estimate - half, estimate + half


def _u_statistic(products: Sequence[Sequence[float]], places: Sequence[int]) -> float:
    off_diagonal = sum(products[i][j] for i in places for j in places if i != j)
    return off_diagonal / (len(places) * (len(places) - 1))


def _is_constant(passes: Passes, factors: Sequence[float], tolerance: float) -> bool:
    """True where all batches have the same residual, in the loss and in the gradient."""
    residuals = _loss_residuals(passes, factors)
    if max(residuals) - min(residuals) > tolerance * _loss_scale(passes):
        return False
    most = (tolerance * _gradient_scale(passes)) ** 2
    for place in range(_PASSES, len(passes.losses), _PASSES):
        first, other = (_bilinear(passes, factors, factors, at, at) for at in (0, place))
        if first + other - 2 * _bilinear(passes, factors, factors, 0, place) > most:
            return False
    return True


def _loss_residuals(passes: Passes, factors: Sequence[float]) -> list[float]:
    places = range(0, len(passes.losses), _PASSES)
    return [_dot(factors, passes.losses[at : at + _PASSES]) for at in places]


def _loss_scale(passes: Passes) -> float:
    return max(map(abs, passes.losses))


def _gradient_scale(passes: Passes) -> float:
    """The largest norm of a gradient; 0 where the loop hides them."""
    return sqrt(max((row[place] for place, row in enumerate(passes.products or ())), default=0.0))


def _bilinear(
    passes: Passes, left: Sequence[float], right: Sequence[float], first: int = 0, second: int = 0
) -> float:
    """The inner product of combinations of the gradients of two batches, which begin at these passes."""
    if passes.products is None:
        return 0.0
    rows = passes.products[first : first + _PASSES]
    return sum(a * _dot(right, row[second : second + _PASSES]) for a, row in zip(left, rows, strict=True))


def _dot(factors: Sequence[float], values: Sequence[float]) -> float:
    return sum(factor * value for factor, value in zip(factors, values, strict=False))

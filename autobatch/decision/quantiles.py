"""Pure: quantiles and standard errors that several decisions share, standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb, cos, pi, sin, sqrt, tan
from statistics import NormalDist, fmean, stdev

from autobatch.decision.constants import CONFIDENCE

# Half-width of the two-sided interval of a normal distribution, and of the one-sided one, in its deviations.
Z_TWO_SIDED = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
Z_ONE_SIDED = NormalDist().inv_cdf(CONFIDENCE)


def error_of_median(values: Sequence[float]) -> float:
    """Standard error of the median of two or more values, under normal noise: sqrt(pi / 2) of the mean's."""
    if max(values) == min(values):
        return 0.0
    return sqrt(pi / 2) * stdev(values, fmean(values)) / sqrt(len(values))


def exclude(values: Sequence[float], centre: float) -> bool:
    """True where the values exclude `centre` as their median, whatever their distribution (sign test).

    Two-sided, at 90% confidence: that takes five values at least.
    """
    below, above = (sum(sign * value < sign * centre for value in values) for sign in (1, -1))
    rarest = sum(comb(below + above, k) for k in range(min(below, above) + 1))
    return 2 * rarest / 2.0 ** (below + above) <= 1 - CONFIDENCE


@lru_cache
def student_t(degrees: int) -> float:
    """Half-width of the two-sided interval of Student's t distribution with `degrees` of freedom.

    By bisection of the probability, which is a finite series for whole degrees (Abramowitz and Stegun 26.7).
    """
    low, high = 0.0, pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if _within(middle, degrees) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return sqrt(degrees) * tan(low)


def _within(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) tan(angle))."""
    odd = degrees % 2
    term = total = cos(angle) if odd else 1.0
    for k in range(2 + odd, degrees, 2):
        term *= cos(angle) ** 2 * (k - 1) / k
        total += term
    if not odd:
        return sin(angle) * total
    return 2 / pi * (angle + (sin(angle) * total if degrees > 1 else 0.0))

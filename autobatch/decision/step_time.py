"""Pure: seconds per training step over batch size, as a law fitted to the measured curve.

    t(B) = a + b B seconds    a fixed cost and a cost per sample (Pollux, Qiao et al. 2021, on one device)

Single sizes can be far off on a loaded machine, so the fit is robust, and it is scored instead of the raw
medians wherever it holds. Where the curve isn't affine (kernels that come in steps, caches that overflow),
the measurements count and not the law. Which is the case is read from the residuals: those that are larger
than the noise of their rounds are real.

Sizes are in samples, times in seconds per step, errors are relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, inf, log, sqrt
from statistics import fmean, median

from autobatch.decision.constants import HUBER, RESOLUTION, ROUND_ERROR
from autobatch.decision.quantiles import DEVIATION_OVER_MEDIAN, error_of_median


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeLaw:
    """t(B) = a + b B fitted to measured steps, with what was measured.

    `relative_error`: root mean square of ln(measured / law) over the sizes. `corrections`: ln of the factor
    by which the best guess at each of `sizes` departs from the law: the residual, shrunk by the share of
    the residuals' variance that the noise of the rounds explains. So noise is smoothed away where the law
    holds, and a true step in the curve is kept. `noise`: the relative error of one of `step_seconds`, root
    mean square over all, 2% at least.
    """

    a_seconds: float
    b_seconds_per_sample: float
    relative_error: float
    sizes: tuple[int, ...]
    step_seconds: tuple[float, ...]
    corrections: tuple[float, ...]
    noise: float

    @property
    def hardware_batch_size(self) -> float:
        """a / b: where the fixed cost is half the step; infinite where samples cost nothing."""
        return self.a_seconds / self.b_seconds_per_sample if self.b_seconds_per_sample else inf

    def affine_seconds(self, size: float) -> float:
        """Seconds per step by the law alone."""
        return self.a_seconds + self.b_seconds_per_sample * size

    def step_seconds_at(self, size: float) -> float:
        """Best guess of the seconds per step: the law, corrected by the measurements next to `size`.

        Between two sizes the correction runs linearly over ln(size); beyond the ends it stays.
        """
        above = next((i for i, known in enumerate(self.sizes) if known >= size), len(self.sizes))
        if above == len(self.sizes) or self.sizes[above] == size or above == 0:
            return self.affine_seconds(size) * exp(self.corrections[min(above, len(self.sizes) - 1)])
        left, right = self.sizes[above - 1], self.sizes[above]
        share = log(size / left) / log(right / left)
        correction = self.corrections[above - 1] * (1 - share) + self.corrections[above] * share
        return self.affine_seconds(size) * exp(correction)


def fit_step_time(sizes: Sequence[int], step_seconds: Sequence[Sequence[float]]) -> StepTimeLaw:
    """The law fitted to the median step of the rounds of each size, on the relative error, a and b >= 0.

    Robust: least absolute errors first, then least squares with Huber's weights. One size alone gives b = 0:
    nothing is known about other sizes.
    """
    if not sizes or len(sizes) != len(step_seconds) or not all(step_seconds):
        raise ValueError(f"every size needs a step time: {len(sizes)} sizes, {len(step_seconds)} times")
    if len(set(sizes)) < len(sizes) or not all(0 < s < inf for rounds in step_seconds for s in rounds):
        raise ValueError("step times must be positive and finite, one tuple for each size")
    pairs = sorted(zip(sizes, step_seconds, strict=True))
    points = [(size, median(rounds)) for size, rounds in pairs]
    a, b = _fit(points)
    residuals = [log(seconds / (a + b * size)) for size, seconds in points]
    errors = _round_errors([rounds for _, rounds in pairs])
    return StepTimeLaw(
        a_seconds=a,
        b_seconds_per_sample=b,
        relative_error=sqrt(fmean(r * r for r in residuals)),
        sizes=tuple(size for size, _ in points),
        step_seconds=tuple(seconds for _, seconds in points),
        corrections=_corrections(residuals, errors),
        noise=sqrt(fmean(error * error for error in errors)),
    )


def _fit(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """a, b >= 0 with the least absolute relative errors, refined by two rounds of Huber's weights."""
    if len(points) == 1:
        return points[0][1], 0.0
    tries = [_least_squares(pair, (1.0, 1.0)) for pair in combinations(points, 2)]
    # With one of them 0, the best is the law through one point.
    tries += [fit for size, seconds in points for fit in ((seconds, 0.0), (0.0, seconds / size))]
    a, b = min(tries, key=lambda fit: sum(abs(r) for r in _relative_residuals(points, fit)))
    for _ in range(2):
        residuals = _relative_residuals(points, (a, b))
        scale = max(DEVIATION_OVER_MEDIAN * median(abs(r) for r in residuals), RESOLUTION)
        a, b = _least_squares(points, [min(1.0, HUBER * scale / max(abs(r), 1e-12)) for r in residuals])
    return a, b


def _relative_residuals(points: Sequence[tuple[int, float]], fit: tuple[float, float]) -> list[float]:
    return [(fit[0] + fit[1] * size) / seconds - 1 for size, seconds in points]


def _least_squares(points: Sequence[tuple[int, float]], weights: Sequence[float]) -> tuple[float, float]:
    """a, b >= 0 with the least weighted squares of (a + b B) / t - 1."""
    rows = [(1 / t, size / t, w) for (size, t), w in zip(points, weights, strict=True)]
    uu = sum(w * u * u for u, _, w in rows)
    uv = sum(w * u * v for u, v, w in rows)
    vv = sum(w * v * v for _, v, w in rows)
    u1 = sum(w * u for u, _, w in rows)
    v1 = sum(w * v for _, v, w in rows)
    determinant = uu * vv - uv * uv
    if determinant > 1e-12 * uu * vv:
        a, b = (u1 * vv - v1 * uv) / determinant, (v1 * uu - u1 * uv) / determinant
        if a >= 0 and b >= 0:
            return a, b
    only_a, only_b = (u1 / uu, 0.0), (0.0, v1 / vv)
    # Each explains u1^2 / uu or v1^2 / vv of the sum of squares.
    return only_a if u1 * u1 / uu >= v1 * v1 / vv else only_b


def _round_errors(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Relative error of the median of each size's rounds."""
    return [
        max(error_of_median([log(s) for s in step_seconds]), RESOLUTION)
        if len(step_seconds) > 1
        else ROUND_ERROR
        for step_seconds in rounds
    ]


def _corrections(residuals: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """The residuals, each shrunk to the law by the share of its variance that is noise (empirical Bayes)."""
    degrees = max(len(residuals) - 2, 1)
    noise = fmean(error * error for error in errors)
    departure = max(0.0, sum(r * r for r in residuals) / degrees - noise)
    return tuple(
        r * departure / (departure + error * error) for r, error in zip(residuals, errors, strict=True)
    )

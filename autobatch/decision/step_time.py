"""Pure: seconds per training step over batch size, as a model fitted to the measured curve.

    t(B) = a + b B seconds    a fixed cost and a cost per sample (Pollux, Qiao et al. 2021, on one device)

Single sizes can be far off on a loaded machine, so the fit is robust, and it is scored instead of the raw
medians wherever it holds. Where the curve isn't affine (kernels that come in steps, caches that overflow),
the measurements count and not the model. The residuals decide: those that are larger than the noise of their
rounds are real.

Sizes are in samples, times in seconds per step, errors are relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, inf, log, sqrt
from statistics import fmean, median

from autobatch.decision.constants import RESOLUTION, TOLERANCE
from autobatch.decision.quantiles import error_of_median


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
        """Best guess of the seconds per step: the law, corrected by the measurements next to `size`."""
        return self.affine_seconds(size) * exp(self.correction_at(size))

    def correction_at(self, size: float) -> float:
        """ln of the best guess over the law alone.

        Between two sizes the correction runs linearly over ln(size); beyond the ends it stays.
        """
        above = next((i for i, each in enumerate(self.sizes) if each >= size), len(self.sizes))
        if above == len(self.sizes) or self.sizes[above] == size or above == 0:
            return self.corrections[min(above, len(self.sizes) - 1)]
        left, right = self.sizes[above - 1], self.sizes[above]
        share = log(size / left) / log(right / left)
        return self.corrections[above - 1] * (1 - share) + self.corrections[above] * share


def fit_step_time(sizes: Sequence[int], step_seconds: Sequence[Sequence[float]]) -> StepTimeLaw:
    """The model fitted to the median step of the rounds of each size, with a and b >= 0.

    By least absolute relative errors, so that a single size that is far off hardly moves it. One size alone
    gives b = 0: nothing is known about other sizes. Raises ValueError for a time that is not positive.
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
    """a, b >= 0 with the least sum of absolute relative errors.

    The sum is piecewise linear, so the best line goes through two points, or through one with a or b = 0.
    """
    if len(points) == 1:
        return points[0][1], 0.0
    lines = [line for size, seconds in points for line in ((seconds, 0.0), (0.0, seconds / size))]
    for (size, seconds), (larger, more_seconds) in combinations(points, 2):
        slope = (more_seconds - seconds) / (larger - size)
        if slope >= 0 and seconds >= slope * size:
            lines.append((seconds - slope * size, slope))
    return min(lines, key=lambda line: sum(abs((line[0] + line[1] * n) / t - 1) for n, t in points))


def _round_errors(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Relative error of the median of each size's rounds; a single one can't tell equal sizes apart."""
    return [
        max(error_of_median([log(s) for s in step_seconds]), RESOLUTION)
        if len(step_seconds) > 1
        else TOLERANCE
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

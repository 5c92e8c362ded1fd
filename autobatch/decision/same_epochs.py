"""Pure: how much worse a training of the same epochs ends at another batch size, and which sizes are safe.

    t(e)    = integral_0^e (B + B_n(u)) / (B0 + B_n(u)) du      AdaScale's gain, Johnson et al. 2020
    harm(B) = L(tau) / L(E)    with t(tau) = E

e epochs at the current size B0 do what t(e) epochs do at size B, where B_n is the gradient noise scale after
so many epochs. So E epochs at B end where the current size is after tau < E epochs. L is the loss curve of
the current size, fitted to a short training and extrapolated to E:

    L(e) = L_inf + c e^-alpha    Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically"

Sizes are in samples of one optimizer step over all ranks, epochs in passes over the training samples. Losses
are those of held-out samples. Harms are ratios of final losses; inside, they are logarithms of ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, hypot, inf, log, sqrt
from statistics import fmean, median

from autobatch.decision.constants import (
    HARM_TOLERANCE,
    LAST_PART,
    LEAST_EXPONENT,
    NARROW_INTERVAL,
    NEAR_ZERO,
    SMOOTHED,
)
from autobatch.decision.loss_extrapolation import FittedCurve, LossCurve, fit_loss_curve, scatter
from autobatch.records.check import NoisePoint

# Parts of a training over which its cost is added up; 200 give the same answers.
_PARTS = range(50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A training of `epochs` at the current size, and the loss curve of as much of it as was run.

    `epochs` is None where the user's length is unknown. `samples`: of one epoch. `noise` is ascending, and
    None where its law does not hold. `keeps_rate`: all sizes train with the user's learning rate.
    """

    current_size: int
    samples: int
    epochs: float | None
    curve: LossCurve
    noise: tuple[NoisePoint, ...] | None
    keeps_rate: bool = False

    @property
    def end_epochs(self) -> float:
        """The user's epochs; where they are unknown, the run itself stands for the whole training.

        Losses fall fastest early, so a training that is longer than that bears larger sizes.
        """
        return self.epochs or self.curve.epochs[-1]

    def is_whole(self, curve: LossCurve) -> bool:
        """Whether a training covers the user's epochs: all but the last 2%, in which losses hardly change."""
        return curve.epochs[-1:] >= ((1 - HARM_TOLERANCE) * self.end_epochs,)


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmEstimate:
    """ln(harm) with its standard deviation."""

    log_harm: float
    sd: float


def estimate_harms(
    course: Course,
    sizes: Sequence[int],
    curves: Mapping[int, LossCurve],
    log_gains: Mapping[int, float] | None = None,
) -> dict[int, HarmEstimate]:
    """ln(harm) of each size at the user's epochs. `curves` are trainings at some of the sizes.

    `curves` has the current size only where it was trained at another learning rate than in the course.
    `log_gains`: the fall of ln(final loss) that a tried learning rate is credited with, by size. A size whose
    training failed has infinite harm. Empty where the current size's losses can't be judged. Where the noise
    law does not hold, only trainings as long as the current size's count.
    """
    noise = tuple(point for point in course.noise or () if point.low > 0)
    curve = course.curve if course.epochs is None else course.curve.until(course.epochs)
    if curve.failed or not curve.losses or (not noise and course.noise is not None):
        return {}
    course = replace(course, noise=noise or None, curve=curve)
    trained = {size: curves[size] for size in sizes if size in curves}
    scaled = _comparable(course, trained)
    if scaled is None:
        return {}
    course, trained = scaled
    harms: dict[int, HarmEstimate] = {}
    gains = log_gains or {}
    if course.noise is not None:
        fits = fit_loss_curve(course.curve)
        if not fits:
            return {}
        harms = {size: _predicted(course, fits, size, gains.get(size, 0.0)) for size in sizes}
    elif course.current_size not in trained:
        harms = {course.current_size: HarmEstimate(log_harm=0.0, sd=0.0)}
    for size, curve in trained.items():
        if curve.failed or not curve.losses:
            harms[size] = HarmEstimate(log_harm=inf, sd=0.0)
        elif course.is_whole(course.curve) and course.is_whole(curve):
            compared = _compared(course, curve, gains.get(size, 0.0))
            harms[size] = _pooled(harms[size], compared) if size in harms else compared
    return harms


def safe_sizes(current_size: int, harms: Mapping[int, HarmEstimate]) -> tuple[int, ...]:
    """The sizes, ascending, whose expected harm is within the tolerance.

    The current size is always safe. A size beyond an unsafe size never is: harm grows with the distance.
    """
    safe = [current_size]
    larger = sorted(size for size in harms if size > current_size)
    smaller = sorted((size for size in harms if size < current_size), reverse=True)
    for sizes in (larger, smaller):
        for size in sizes:
            if not harms[size].log_harm <= log(1 + HARM_TOLERANCE):
                break
            safe.append(size)
    return tuple(sorted(safe))


def epoch_shift(course: Course, size: int, noise_factor: float = 1.0) -> float:
    """ln(E / tau): how far back on the current size's loss curve a training at `size` ends.

    `noise_factor` multiplies every noise scale. The scale is a running median of three, interpolated over
    ln(epochs). Beyond the last point it stays as it is, on the safe side: it rises during a training. With
    the rate of the current size, a step at a larger size makes no more progress, however small the noise.
    """
    end = course.end_epochs
    noise_scales = _smoothed_noise(course)
    step, spent, epochs, cost = end / len(_PARTS), 0.0, 0.0, 1.0
    for part in _PARTS:
        noise = noise_factor * exp(_interpolated(noise_scales, log((part + 0.5) * step)))
        cost = (size + noise) / (course.current_size + noise)
        if course.keeps_rate:
            cost = max(cost, size / course.current_size)
        if spent + cost * step >= end:
            break
        spent, epochs = spent + cost * step, epochs + step
    # A smaller size gets further than the current one: at the cost of the end.
    return log(end / (epochs + (end - spent) / cost))


def _smoothed_noise(course: Course) -> list[tuple[float, float]]:
    """(ln epochs, ln noise scale) of the points measured in the user's epochs, of the first one at least.

    A wide interval must not excuse a size: a scale counts for at most NARROW_INTERVAL times its lower bound.
    """
    end = course.end_epochs * course.samples
    noise = course.noise or ()
    points = [p for p in noise if p.samples_seen <= end] or noise[:1]
    logs = [log(min(p.batch_size, NARROW_INTERVAL * p.low)) for p in points]
    smooth = [median(logs[max(0, i - 1) : i + 2]) if len(logs) > 2 else logs[i] for i in range(len(logs))]
    return [(log(p.samples_seen / course.samples), y) for p, y in zip(points, smooth, strict=True)]


def _interpolated(points: Sequence[tuple[float, float]], x: float) -> float:
    if x <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return points[-1][1]


def _predicted(course: Course, fits: Sequence[FittedCurve], size: int, log_gain: float) -> HarmEstimate:
    """The harm by the fitted curves, less the gain of the learning rate.

    Its sd adds up the spread of the fits, the effect of twice and half the noise scale, the error of the
    model, which is as large as the harm itself on recorded trainings, and the scatter of the losses: a
    training ends anywhere within it.
    """
    end = log(course.end_epochs)

    def harms(shift: float) -> list[float]:
        least = LEAST_EXPONENT * shift
        return [max(fit.log_loss(end - shift) - fit.log_loss(end), least) for fit in fits]

    def mean(values: Sequence[float]) -> float:
        return sum(fit.weight * value for fit, value in zip(fits, values, strict=True))

    expected = harms(epoch_shift(course, size))
    log_harm = mean(expected)
    spread = sqrt(mean([(value - log_harm) ** 2 for value in expected]))
    low, high = (mean(harms(epoch_shift(course, size, factor))) for factor in (2.0, 0.5))
    sd = hypot(spread, (high - low) / 2, log_harm, HARM_TOLERANCE, scatter(fits))
    return HarmEstimate(log_harm=log_harm - log_gain, sd=sd)


def _compared(course: Course, curve: LossCurve, log_gain: float) -> HarmEstimate:
    """ln of the ratio of losses at equal epochs, over the last quarter of both trainings.

    Its sd is the scatter of both curves around their fits. On recorded trainings the ratios of pairs that
    share first weights and the order of samples differ by as much between seeds (within a factor of 1.6), be
    it 0.5% or 50%. The last quarter alone hides it: a training that has settled hardly moves any more. A
    larger size by itself ends no lower, so a lead beyond the gain of the learning rate is luck. Fewer
    evaluations than SMOOTHED say nothing: the error is infinite.
    """
    end = min(curve.epochs[-1], course.curve.epochs[-1])
    base = list(zip(map(log, course.curve.epochs), map(log, course.curve.losses), strict=True))
    last = curve.until(end)
    gaps = [
        log(loss) - _interpolated(base, log(epochs))
        for epochs, loss in zip(last.epochs, last.losses, strict=True)
        if epochs > (1 - LAST_PART) * end
    ]
    if len(gaps) < SMOOTHED:
        return HarmEstimate(log_harm=0.0, sd=inf)
    scatters = [scatter(fit_loss_curve(each)) for each in (course.curve, curve)]
    sd = hypot(*scatters, HARM_TOLERANCE) / sqrt(2)
    return HarmEstimate(log_harm=max(fmean(gaps), -log_gain), sd=sd)


def _pooled(predicted: HarmEstimate, compared: HarmEstimate) -> HarmEstimate:
    """Both estimates, weighted by their precision."""
    first, second = predicted.sd**-2, compared.sd**-2
    mean = (first * predicted.log_harm + second * compared.log_harm) / (first + second)
    return HarmEstimate(log_harm=mean, sd=(first + second) ** -0.5)


def _comparable(
    course: Course, curves: Mapping[int, LossCurve]
) -> tuple[Course, dict[int, LossCurve]] | None:
    """The curves as they are where ratios of their losses mean something, else in units of the fall.

    Near or below zero a loss is restated as 1 + (loss - end) / fall, where `end` is the current size's last
    loss, and `fall` the fall to it from the first weights. None where a loss neither is positive nor fell.
    """
    end, first = course.curve.end_loss(), course.curve.first_loss
    fall = None if first is None else first - end
    judged = [course.curve, *(curve for curve in curves.values() if not curve.failed)]
    positive = all(loss > 0 for curve in judged for loss in curve.losses)
    if positive and (fall is None or end > NEAR_ZERO * fall):
        return course, dict(curves)
    if fall is None or fall <= 0:
        return None

    def restated(curve: LossCurve) -> LossCurve:
        losses = tuple(max(1 + (loss - end) / fall, NEAR_ZERO) for loss in curve.losses)
        return replace(curve, losses=losses)

    return (
        replace(course, curve=restated(course.curve)),
        {size: restated(curve) for size, curve in curves.items()},
    )

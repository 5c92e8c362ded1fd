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
from statistics import fmean, median, stdev

from autobatch.records.check import Training
from autobatch.records.trial import Outcome

# A final loss that is expected to be higher by this share is no worse. TRADE
HARM_TOLERANCE = 0.02
# The least exponent of the loss curve. A curve that looks flat early still falls later, or overfits less at a
# small size: with 0 here, twice as many decisions end more than 5% higher.
LEAST_EXPONENT = 0.1
# The fit uses the last part of a training, from this share of its epochs on: the start has another exponent.
FITTED_FROM = 1 / 8
# Values of L_inf between 0 and the lowest loss; more don't change a prediction by 0.1%.
ASYMPTOTES = 25
# A noise scale counts for at most this many times its lower bound: a wide interval must not excuse a size.
MOST_OVER_LOWER_BOUND = 3.0
# Standard deviations of ln(harm): the least of a prediction, the part in shares of the predicted harm, and
# the least of a comparison.
LEAST_PREDICTION_SD, PREDICTION_SHARE, LEAST_COMPARISON_SD = 0.02, 0.5, 0.005
# A loss below this share of the fall since the first weights is near zero: its ratios say nothing.
NEAR_ZERO = 0.01
# Evaluations of one training that follow each other share their noise: so many count as one.
EVALUATIONS_IN_ONE = 3
# Intervals of the integral over the course of a training; 100 change no prediction by 0.1%.
INTERVALS = 200
# A loss at the end of a training is the mean of so many evaluations.
FINAL_EVALUATIONS = 4
# A run counts as a whole training from this share of the user's epochs on.
WHOLE = 0.95
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePoint:
    """The gradient noise scale, with its 90% lower bound, after so many samples of a training."""

    samples_seen: float
    batch_size: float
    low: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """Held-out losses after so many epochs, ascending. `first_loss` is that of the first weights.

    `failed`: the training diverged or ended by an error.
    """

    epochs: tuple[float, ...]
    losses: tuple[float, ...]
    first_loss: float | None = None
    failed: bool = False

    def until(self, epochs: float) -> LossCurve:
        """The part of the curve up to `epochs`."""
        count = sum(at <= epochs * (1 + _ROUNDING) for at in self.epochs)
        return replace(self, epochs=self.epochs[:count], losses=self.losses[:count])

    def end_loss(self) -> float:
        """The mean of the last evaluations."""
        return fmean(self.losses[-FINAL_EVALUATIONS:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A training of `epochs` at the current size, and the start of it that was run.

    `epochs` is None where the user's length is unknown. `samples`: of one epoch. `noise` is ascending.
    """

    current_size: int
    samples: int
    epochs: float | None
    curve: LossCurve
    noise: tuple[NoisePoint, ...]

    @property
    def run_epochs(self) -> float:
        """The epochs that were run, of those the user trains for."""
        return min(self.curve.epochs[-1], self.end_epochs)

    @property
    def end_epochs(self) -> float:
        """The user's epochs; where they are unknown, the run itself stands for the whole training.

        Losses fall fastest early, so a training that is longer than that bears larger sizes.
        """
        return self.epochs or self.curve.epochs[-1]

    def is_whole(self, curve: LossCurve) -> bool:
        """Whether a training at another size covers all of the user's epochs."""
        return curve.epochs[-1:] >= (WHOLE * self.end_epochs,)


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmEstimate:
    """ln(harm) with its standard deviation."""

    log_harm: float
    sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCurve:
    """L(e) = asymptote + exp(level - exponent (ln e - centre)), with the weight of the fit."""

    asymptote: float
    level: float
    exponent: float
    centre: float
    weight: float

    def log_loss(self, log_epochs: float) -> float:
        """ln L after exp(log_epochs) epochs."""
        return log(self.asymptote + exp(self.level - self.exponent * (log_epochs - self.centre)))


def loss_curve(training: Training, samples: int) -> LossCurve:
    """The loss curve of a short training, over epochs of `samples`.

    An evaluation after 0 steps is that of the first weights.
    """
    first = next((fmean(e.losses) for e in training.evaluations if e.steps == 0), None)
    trained = [e for e in training.evaluations if e.steps > 0]
    return LossCurve(
        epochs=tuple(e.steps * training.batch_size / samples for e in trained),
        losses=tuple(fmean(e.losses) for e in trained),
        first_loss=first,
        failed=training.outcome is not Outcome.OK,
    )


def estimate_harms(
    course: Course, sizes: Sequence[int], curves: Mapping[int, LossCurve]
) -> dict[int, HarmEstimate]:
    """ln(harm) of each size at the user's epochs. `curves` are trainings at some of the sizes.

    A size whose training failed has infinite harm. Empty where the current size's losses can't be judged.
    """
    if course.curve.failed or not course.noise:
        return {}
    known = {size: curve for size, curve in curves.items() if size != course.current_size}
    scaled = _comparable(course, known)
    if scaled is None:
        return {}
    course, known = scaled
    fits = fit_loss_curve(course.curve.until(course.run_epochs))
    if not fits:
        return {}
    harms = {size: _predicted(course, fits, size) for size in sizes}
    for size, curve in known.items():
        if curve.failed or not curve.losses:
            harms[size] = HarmEstimate(log_harm=inf, sd=0.0)
        elif course.is_whole(course.curve) and course.is_whole(curve):
            harms[size] = _pooled(harms[size], compared_harm(course, curve))
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


def fit_loss_curve(curve: LossCurve) -> tuple[FittedCurve, ...]:
    """Power laws fitted to the last part of a curve, one for each asymptote, weighted by their likelihoods.

    Empty for fewer than three evaluations there. A curve that doesn't fall gives a flat fit.
    """
    start = curve.epochs[-1] * FITTED_FROM if curve.epochs else 0.0
    pairs = [(log(e), loss) for e, loss in zip(curve.epochs, curve.losses, strict=True) if e > start]
    if len(pairs) < 3:
        return ()
    lowest = min(loss for _, loss in pairs)
    found = [_power_law(pairs, 0.98 * lowest * i / (ASYMPTOTES - 1)) for i in range(ASYMPTOTES)]
    falling = [(fit, squares) for fit, squares in found if fit.exponent > 0]
    if not falling:
        level = fmean(log(loss) for _, loss in pairs)
        return (FittedCurve(asymptote=0.0, level=level, exponent=0.0, centre=0.0, weight=1.0),)
    least = min(squares for _, squares in falling) or 1e-12
    degrees = max(3.0, len(pairs) / EVALUATIONS_IN_ONE)
    weights = [exp(-degrees / 2 * log(max(squares, 1e-12) / least)) for _, squares in falling]
    total = sum(weights)
    return tuple(
        replace(fit, weight=weight / total) for (fit, _), weight in zip(falling, weights, strict=True)
    )


def _power_law(pairs: Sequence[tuple[float, float]], asymptote: float) -> tuple[FittedCurve, float]:
    """ln(L - asymptote) as a line of ln e by least squares, and the squared residuals of ln L."""
    centre = fmean(x for x, _ in pairs)
    logs = [log(loss - asymptote) for _, loss in pairs]
    level = fmean(logs)
    spread = sum((x - centre) ** 2 for x, _ in pairs)
    slope = sum((x - centre) * y for (x, _), y in zip(pairs, logs, strict=True)) / spread if spread else 0.0
    fit = FittedCurve(asymptote=asymptote, level=level, exponent=-slope, centre=centre, weight=1.0)
    return fit, sum((log(loss) - fit.log_loss(x)) ** 2 for x, loss in pairs)


def epoch_shift(course: Course, size: int, noise_factor: float = 1.0) -> float:
    """ln(E / tau): how far back on the current size's loss curve a training at `size` ends.

    `noise_factor` multiplies every noise scale. The scale is a running median of three, interpolated over
    ln(epochs). Beyond the last point it stays as it is, on the safe side: it rises during a training.
    """
    end = course.end_epochs
    logs = _smoothed_noise(course)
    step, spent, epochs = end / INTERVALS, 0.0, 0.0
    for i in range(INTERVALS):
        noise = noise_factor * exp(_interpolated(logs, log((i + 0.5) * step)))
        cost = (size + noise) / (course.current_size + noise) * step
        if spent + cost >= end:
            epochs += step * (end - spent) / cost
            return log(end / epochs)
        spent, epochs = spent + cost, epochs + step
    # A smaller size: it gets further than the current one, at the rate of the end.
    return log(end / (epochs + (end - spent) * step / cost))


def _smoothed_noise(course: Course) -> list[tuple[float, float]]:
    """(ln epochs, ln noise scale) of the points measured in the user's epochs."""
    points = [p for p in course.noise if p.samples_seen <= course.run_epochs * course.samples * (1 + 0.02)]
    points = points or list(course.noise[:1])
    logs = [log(min(p.batch_size, MOST_OVER_LOWER_BOUND * p.low)) for p in points]
    smooth = [median(logs[max(0, i - 1) : i + 2]) for i in range(len(logs))] if len(logs) > 2 else logs
    epochs = [log(max(p.samples_seen, 1.0) / course.samples) for p in points]
    return list(zip(epochs, smooth, strict=True))


def _interpolated(points: Sequence[tuple[float, float]], x: float) -> float:
    if x <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return points[-1][1]


def _predicted(course: Course, fits: Sequence[FittedCurve], size: int) -> HarmEstimate:
    """The harm by the fitted curves.

    Its sd adds up the spread of the fits, the effect of twice and half the noise scale, and the model's
    error.
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
    sd = hypot(spread, (high - low) / 2, PREDICTION_SHARE * log_harm, LEAST_PREDICTION_SD)
    return HarmEstimate(log_harm=log_harm, sd=sd)


def compared_harm(course: Course, curve: LossCurve) -> HarmEstimate:
    """ln of the ratio of losses at equal epochs, over the last quarter of the run of both."""
    end = min(curve.epochs[-1], course.run_epochs)
    base = list(zip(map(log, course.curve.epochs), map(log, course.curve.losses), strict=True))
    gaps = [
        log(loss) - _interpolated(base, log(epochs))
        for epochs, loss in zip(curve.until(end).epochs, curve.until(end).losses, strict=True)
        if epochs > 0.75 * end
    ]
    error = stdev(gaps) / sqrt(max(1.0, len(gaps) / EVALUATIONS_IN_ONE)) if len(gaps) > 2 else 0.05
    return HarmEstimate(log_harm=fmean(gaps), sd=hypot(2 * error, LEAST_COMPARISON_SD))


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
    run = course.curve.until(course.run_epochs)
    if not run.losses:
        return None
    end, first = run.end_loss(), run.first_loss
    fall = None if first is None else first - end
    judged = [run, *(curve for curve in curves.values() if not curve.failed)]
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

"""Pure: a loss curve over epochs, and power laws fitted to it that say how it goes on.

    L(e) = L_inf + c e^-alpha    Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically"

A short training leaves L_inf open: many values fit, and each gives another loss later on. So all of them
count, weighted by their likelihoods. Losses are those of held-out samples, epochs passes over the training
samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, isclose, log, sqrt
from statistics import fmean, pstdev

from autobatch.decision.constants import FITTED_FROM, SMOOTHED
from autobatch.records.check import Training
from autobatch.records.trial import Outcome

# Values of L_inf, from 0 to just below the lowest loss.
_ASYMPTOTES = [0.98 * i / 24 for i in range(25)]


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
        count = sum(at <= epochs or isclose(at, epochs) for at in self.epochs)
        return replace(self, epochs=self.epochs[:count], losses=self.losses[:count])

    def end_loss(self) -> float:
        """The mean of the last evaluations."""
        return fmean(self.losses[-SMOOTHED:])


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCurve:
    """L(e) = asymptote + exp(level - exponent (ln e - centre)), with the weight of the fit.

    `scatter`: root mean square of ln(loss / fit).
    """

    asymptote: float
    level: float
    exponent: float
    centre: float
    scatter: float
    weight: float = 1.0

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


def fit_loss_curve(curve: LossCurve) -> tuple[FittedCurve, ...]:
    """Power laws fitted to the last part of a curve of positive losses, with weights that add up to 1.

    Empty for fewer than SMOOTHED evaluations there. A curve that doesn't fall gives a flat fit.
    """
    start = curve.epochs[-1] * FITTED_FROM if curve.epochs else 0.0
    points = [(log(e), loss) for e, loss in zip(curve.epochs, curve.losses, strict=True) if e > start]
    if len(points) < SMOOTHED:
        return ()
    lowest = min(loss for _, loss in points)
    fits = [_power_law(points, share * lowest) for share in _ASYMPTOTES]
    falling = [fit for fit in fits if fit.exponent > 0]
    if not falling:
        logs = [log(loss) for _, loss in points]
        flat = FittedCurve(asymptote=0.0, level=fmean(logs), exponent=0.0, centre=0.0, scatter=pstdev(logs))
        return (flat,)
    least = min(fit.scatter for fit in falling)
    degrees = max(SMOOTHED, len(points) / SMOOTHED)
    weights = [exp(-degrees * log(fit.scatter / least)) for fit in falling]
    total = sum(weights)
    return tuple(replace(fit, weight=weight / total) for fit, weight in zip(falling, weights, strict=True))


def scatter(fits: Sequence[FittedCurve]) -> float:
    """The weighted scatter of the losses around their fits."""
    return sum(fit.weight * fit.scatter for fit in fits)


def _power_law(points: Sequence[tuple[float, float]], asymptote: float) -> FittedCurve:
    """ln(L - asymptote) as a line of ln e by least squares. The scatter is never 0, as ratios of it count."""
    centre = fmean(x for x, _ in points)
    logs = [log(loss - asymptote) for _, loss in points]
    level = fmean(logs)
    spread = sum((x - centre) ** 2 for x, _ in points)
    slope = sum((x - centre) * y for (x, _), y in zip(points, logs, strict=True)) / spread
    fit = FittedCurve(asymptote=asymptote, level=level, exponent=-slope, centre=centre, scatter=0.0)
    squares = fmean((log(loss) - fit.log_loss(x)) ** 2 for x, loss in points)
    return replace(fit, scatter=max(sqrt(squares), 1e-9))

"""Pure: change the batch size or keep it, and the probability that this is right.

A change is right where the training of the same epochs is at least 5% faster and ends at most 5% higher. To
keep is right where no size is at least 5% faster and ends at most 2% higher. In between, both are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erf, exp, hypot, inf, log, sqrt

from autobatch.decision.constants import (
    CHANGE_PROBABILITY,
    CONFIDENCE,
    HARM_TOLERANCE,
    RESOLUTION,
    TOLERANCE,
)
from autobatch.decision.quantiles import Z_TWO_SIDED, exclude
from autobatch.decision.round_statistics import median_interval
from autobatch.decision.same_epochs import HarmEstimate, safe_sizes
from autobatch.decision.step_time import StepTimeLaw
from autobatch.records.recommendation import Action, Confidence, Decision, SameEpochs
from autobatch.records.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """ln of the samples a second at a size over those at the current size.

    `sd` makes +- 1.645 sd the 90% interval: for few rounds it is wider than their standard error.
    """

    log_ratio: float
    sd: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 90% interval of the ratio."""
        half = Z_TWO_SIDED * self.sd
        return exp(self.log_ratio - half), exp(self.log_ratio + half)

    def probability(self, ratio: float) -> float:
        """The probability that the size is faster by at least `ratio`."""
        return probability_above(self.log_ratio, self.sd, log(ratio))


def decide(current_size: int, speedups: Mapping[int, Speedup], harms: Mapping[int, HarmEstimate]) -> Decision:
    """The fastest safe size to which a change is right with a probability of 75%, else the current size.

    The 90% interval of its speedup also has to exclude a slower training.
    """
    right = {
        size: _worth_probability(speedups[size], harms[size], 1 + TOLERANCE)
        for size in safe_sizes(current_size, harms)
        if size in speedups and size != current_size and speedups[size].interval[0] > 1
    }
    worth = [size for size, probability in right.items() if probability >= CHANGE_PROBABILITY]
    if not worth:
        return _decision(Action.KEEP, current_size, 1 - _best_alternative(speedups, harms))
    best = max(speedups[size].log_ratio for size in worth)
    tied = [size for size in worth if speedups[size].log_ratio >= best - log(1 + HARM_TOLERANCE)]
    chosen = min(tied, key=lambda size: abs(log(size / current_size)))
    return _decision(Action.CHANGE, chosen, right[chosen])


def kept_uncompared(current_size: int) -> Decision:
    """The decision to keep a size that could be compared with no other: even odds."""
    return _decision(Action.KEEP, current_size, 0.5)


def _decision(action: Action, size: int, confidence: float) -> Decision:
    level = Confidence.LOW
    if confidence >= CHANGE_PROBABILITY:
        level = Confidence.HIGH if confidence >= CONFIDENCE else Confidence.MEDIUM
    return Decision(action=action, batch_size=size, confidence=confidence, level=level)


def compare_sizes(
    current_size: int, speedups: Mapping[int, Speedup], harms: Mapping[int, HarmEstimate]
) -> tuple[SameEpochs, ...]:
    """Each size beside the current one, ascending."""
    safe = safe_sizes(current_size, harms)
    return tuple(
        _compared(size, speedup, harms.get(size), size in safe) for size, speedup in sorted(speedups.items())
    )


def _compared(size: int, speedup: Speedup, harm: HarmEstimate | None, is_safe: bool) -> SameEpochs:
    estimate = harm if harm is not None and harm.log_harm < inf else None
    return SameEpochs(
        batch_size=size,
        harm=None if estimate is None else exp(estimate.log_harm),
        harm_low=None if estimate is None else exp(estimate.log_harm - estimate.sd),
        harm_high=None if estimate is None else exp(estimate.log_harm + estimate.sd),
        speedup=exp(speedup.log_ratio),
        interval=speedup.interval,
        safe=is_safe,
    )


def measured_speedups(current: Trial, trials: Sequence[Trial], step_time: StepTimeLaw) -> dict[int, Speedup]:
    """The speedup of each trial's size over the current one, by size.

    The ratio comes from the step-time model of all sizes. Its error comes from the last rounds of both, which
    ran in turns, and is at least the 2% that a machine drifts between rounds.

    A single bad timing looks like a true step in the curve, and rounds in a row do not show it by their
    spread. So while the rounds do not confirm a departure from the law, the measured ratio and the law's are
    as likely: the expected ratio is their middle, its deviation half of their distance. The law that one size
    contradicts is itself no surer than its relative error, so that also adds to the deviation.
    """
    return {trial.batch_size: _speedup(current, trial, step_time) for trial in trials}


def unconfirmed_departure(current: Trial, other: Trial, step_time: StepTimeLaw) -> float:
    """ln of the measured speedup over that of the law a + b B; 0 where the rounds of both confirm it.

    The last rounds of both ran in turns, so a busy machine hits both alike. They confirm the departure where
    they exclude the law's ratio as their median. The current size is timed first, by fewer rounds in a row.
    """
    departure = step_time.correction_at(current.batch_size) - step_time.correction_at(other.batch_size)
    by_law = step_time.affine_seconds(current.batch_size) / step_time.affine_seconds(other.batch_size)
    return 0.0 if exclude(_paired_ratios(current, other), by_law) else departure


def probability_above(mean: float, sd: float, threshold: float) -> float:
    """The probability that a normal variable exceeds the threshold."""
    if sd == 0 or abs(mean) == inf:
        return float(mean >= threshold)
    return 0.5 * (1 + erf((mean - threshold) / (sd * sqrt(2))))


def _log_throughput(trial: Trial, step_time: StepTimeLaw) -> float:
    return log(trial.batch_size / step_time.step_seconds_at(trial.batch_size))


def _speedup(current: Trial, other: Trial, step_time: StepTimeLaw) -> Speedup:
    if other.batch_size == current.batch_size:
        return Speedup(log_ratio=0.0, sd=0.0)
    measured = _log_throughput(other, step_time) - _log_throughput(current, step_time)
    departure = unconfirmed_departure(current, other, step_time)
    of_law = min(abs(departure), step_time.relative_error)
    return Speedup(
        log_ratio=measured - departure / 2, sd=hypot(_ratio_sd(current, other), departure / 2, of_law)
    )


def _ratio_sd(current: Trial, other: Trial) -> float:
    """The error of ln of the ratio of two step times, so that +- 1.645 of it is the 90% interval."""
    interval = median_interval(_paired_ratios(current, other))
    if interval is None:
        # A single round can't tell sizes apart that count as equal.
        return hypot(TOLERANCE, TOLERANCE)
    return max(log(interval[1] / interval[0]) / (2 * Z_TWO_SIDED), RESOLUTION)


def _paired_ratios(current: Trial, other: Trial) -> list[float]:
    """Step times at the current size over those at the other, by their last rounds."""
    rounds = min(len(current.step_seconds), len(other.step_seconds))
    if not rounds:
        return []
    pairs = zip(current.step_seconds[-rounds:], other.step_seconds[-rounds:], strict=True)
    return [a / b for a, b in pairs]


def _worth_probability(speedup: Speedup, harm: HarmEstimate | None, most: float) -> float:
    """The probability that a size is at least 5% faster, with a harm of at most `most`.

    Even odds stand for a harm that was not estimated.
    """
    unharmed = 0.5 if harm is None else 1 - probability_above(harm.log_harm, harm.sd, log(most))
    return speedup.probability(1 + TOLERANCE) * unharmed


def _best_alternative(speedups: Mapping[int, Speedup], harms: Mapping[int, HarmEstimate]) -> float:
    """The probability that the best of the other sizes would have been worth a change."""
    worth = [
        _worth_probability(speedup, harms.get(size), 1 + HARM_TOLERANCE)
        for size, speedup in speedups.items()
        if speedup.sd > 0
    ]
    return max(worth, default=0.0)

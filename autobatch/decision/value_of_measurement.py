"""Pure: the share of a training's time that one more timing round is expected to save, and if that pays.

    saving = s phi(m / s) - |m| Phi(-|m| / s)     Raiffa and Schlaifer 1961; Frazier et al. 2009

for two choices whose ln of throughputs differ by m. s is the standard deviation of the change that one more
round makes in m: sd / sqrt(n + 1) after n rounds, with sd the error of m so far. Where sizes are far apart,
no round can change the choice, so that it saves nothing.

`benchmarks/climb_replay.py` compares this rule with fixed numbers of rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log, pi, sqrt
from statistics import NormalDist, fmean, median

from autobatch.decision.constants import MIN_REPEATS, RESOLUTION, STAGE_SHARE, TOLERANCE
from autobatch.decision.quantiles import error_of_median, student_t

_NORMAL = NormalDist()


def horizon_seconds(budget_seconds: float, training_seconds: float | None) -> float:
    """The seconds of the training that a search saves time for, and ten budgets at least.

    A search of a minute is asked for where a training takes ten, or many trainings take less. Where only the
    shorter training counted, no measurement would pay. `training_seconds`: None where the length is unknown.
    """
    return max(training_seconds or 0.0, budget_seconds / STAGE_SHARE)


def expected_saving(difference: float, error: float, rounds: int) -> float:
    """The expected gain of one more round, as ln of throughput.

    `difference`: ln of the ratio of two throughputs, less the threshold of the choice. `error`: its standard
    error after so many rounds.
    """
    change = error / sqrt(rounds + 1)
    if change == 0:
        return 0.0
    distance = abs(difference) / change
    # Far out in the tail the difference loses its digits.
    return max(0.0, change * (_NORMAL.pdf(distance) - distance * _NORMAL.cdf(-distance)))


def round_error(rounds: Iterable[Sequence[float]]) -> float:
    """Standard deviation of ln of the step seconds of one round, pooled over the rounds of all sizes.

    A machine that looks quiet drifts all the same: so many rounds as the fewest count as drifting by 2%.
    """
    logs = [[log(seconds) for seconds in times] for times in rounds if times]
    squares = sum((value - fmean(values)) ** 2 for values in logs for value in values)
    degrees = sum(len(values) - 1 for values in logs)
    return sqrt((squares + MIN_REPEATS * RESOLUTION**2) / (degrees + MIN_REPEATS))


def pair_saving(log_ratios: Sequence[float], error: float) -> float:
    """The expected gain of one more pair of rounds, which tells whether a larger size is faster per sample.

    `log_ratios`: ln of the ratio of throughputs, one per pair. `error`: that of a single round.
    """
    # A ratio has the error of two rounds, and a median pi / 2 times the variance of a mean.
    error_so_far = error * sqrt(pi / len(log_ratios))
    return expected_saving(median(log_ratios) - log(1 + TOLERANCE), error_so_far, len(log_ratios))


def window_saving(
    step_seconds: Mapping[int, Sequence[float]], current_size: int | None, error: float
) -> float:
    """The expected gain of one more round of each size: the largest that it may bring to any choice.

    Sizes are chosen by whether they are 5% faster than the current size, and by which is the fastest. A size
    that looks faster and is not surely faster is not chosen, so that more rounds may bring all of its gain.
    `step_seconds`: of the rounds in one window, equally many of each size, two at least. `error`: that of a
    single round.
    """
    fastest = max(step_seconds, key=lambda size: log(size) - median(map(log, step_seconds[size])))
    references = {fastest: 0.0}
    if current_size is not None and current_size in step_seconds:
        references[current_size] = log(1 + TOLERANCE)
    savings = [
        _window_saving(_log_ratios(size, reference, step_seconds), threshold, error)
        for reference, threshold in references.items()
        for size in step_seconds
        if size != reference
    ]
    return max(savings, default=0.0)


def _window_saving(log_ratios: Sequence[float], threshold: float, error: float) -> float:
    rounds, centre = len(log_ratios), median(log_ratios)
    median_error = error_of_median(log_ratios)
    if threshold and centre > threshold and centre < student_t(rounds - 1) * median_error:
        return centre
    # A few rounds may agree by chance.
    return expected_saving(centre - threshold, max(median_error, error * sqrt(pi / rounds)), rounds)


def _log_ratios(size: int, reference: int, step_seconds: Mapping[int, Sequence[float]]) -> list[float]:
    """ln of the throughput of a size over that of the reference, one per round."""
    pairs = zip(step_seconds[size], step_seconds[reference], strict=True)
    return [log(size / seconds) - log(reference / other) for seconds, other in pairs]

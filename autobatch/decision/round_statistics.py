"""Pure statistics of step times: medians, intervals, and whether one size beats another.

Noise on a shared machine is correlated in time, so a *round* (a short window of steps) is the unit of
evidence, and two sizes are compared by rounds that alternate.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log, sqrt
from statistics import fmean, median, stdev

from autobatch.records.trial import Gain, Trial

# A larger size has to be this much quicker per sample to count as quicker at all.
FLAT_RATIO = 1.05
MIN_ROUNDS = 3
MAX_ROUNDS = 8
# Efficiency of the median against the mean under normal noise: sqrt(pi / 2).
_MEDIAN_ERROR = 1.2533
# One-sided 90%: enough to go on, since a plateau needs two flat doublings in a row.
_DECIDED_ERRORS = 1.3
# Student's t at 95% (a two-sided 90% interval) by degrees of freedom; 1.64 beyond the table.
_T95 = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 90% interval of the median of positive `values`, by Student's t on their logarithms.

    None for fewer than two values: one round says nothing about its own noise.
    """
    if len(values) < 2:
        return None
    logs = [log(value) for value in values]
    half = _t95(len(logs) - 1) * _median_error(logs)
    centre = median(logs)
    return exp(centre - half), exp(centre + half)


def throughput(batch_size: int, step_seconds: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Samples per second with its 90% interval, from the median step of each round."""
    rates = [batch_size / seconds for seconds in step_seconds]
    return median(rates), median_interval(rates)


def gain(over: int, log_ratios: Sequence[float]) -> Gain:
    """How much quicker per sample a size is than size `over`, from paired rounds.

    `log_ratios`: ln(throughput of the size / throughput of `over`), one per round. It is decided when
    the distance from the flat threshold exceeds 1.3 standard errors, after three rounds at least.
    """
    centre = median(log_ratios)
    error = _median_error(log_ratios) if len(log_ratios) > 1 else inf
    decided = len(log_ratios) >= MIN_ROUNDS and abs(centre - log(FLAT_RATIO)) > _DECIDED_ERRORS * error
    half = min(_t95(len(log_ratios) - 1) * error, 50.0) if len(log_ratios) > 1 else 50.0
    return Gain(
        over=over,
        ratio=exp(centre),
        low=exp(centre - half),
        high=exp(centre + half),
        rounds=len(log_ratios),
        decided=decided,
    )


def is_flat(found: Gain | None) -> bool:
    """True where a size was compared and is not quicker per sample than the best smaller one."""
    return found is not None and found.ratio < FLAT_RATIO


def _median_error(values: Sequence[float]) -> float:
    if max(values) == min(values):
        return 0.0
    return _MEDIAN_ERROR * stdev(values, fmean(values)) / sqrt(len(values))


def _t95(degrees: int) -> float:
    return _T95[degrees - 1] if degrees <= len(_T95) else 1.64


def timed(passed: Sequence[Trial]) -> Sequence[Trial]:
    """The sizes timed in rounds; a size that was only tried for memory has one rough figure, or none.

    Where there is no such size, those that have a figure; where there is none of these either, all.
    """
    rough = [trial for trial in passed if trial.step_seconds]
    return [trial for trial in rough if len(trial.step_seconds) >= MIN_ROUNDS] or rough or passed

"""Pure statistics of step times: medians, intervals, and whether one size beats another.

Noise on a shared machine is correlated in time, so a *round* (a short window of steps) is the unit of
evidence, and two sizes are compared by rounds that alternate.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import median

from autobatch.decision.constants import MIN_REPEATS, RESOLUTION, TOLERANCE
from autobatch.decision.quantiles import Z_ONE_SIDED, error_of_median, student_t
from autobatch.records.trial import Gain


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 90% interval of the median of positive `values`, by Student's t on their logarithms.

    None for fewer than two values: one round says nothing about its own noise.
    """
    if len(values) < 2:
        return None
    logs = [log(value) for value in values]
    half = student_t(len(logs) - 1) * error_of_median(logs)
    centre = median(logs)
    return exp(centre - half), exp(centre + half)


def throughput(batch_size: int, step_seconds: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Samples per second with its 90% interval, from the median step of each round."""
    rates = [batch_size / seconds for seconds in step_seconds]
    return median(rates), median_interval(rates)


def gain(over: int, log_ratios: Sequence[float], round_error: float = RESOLUTION) -> Gain:
    """Throughput of a size over the throughput of size `over`, from paired rounds.

    `log_ratios`: ln(throughput of the size / throughput of `over`), one per round. The gain is decided after
    three rounds at least, when the one-sided 90% interval leaves the flat threshold. That is enough, since a
    plateau takes two flat doublings in a row. `round_error`: the error of ln of a single round's time, for
    the interval of a single pair.
    """
    centre = median(log_ratios)
    error = error_of_median(log_ratios) if len(log_ratios) > 1 else sqrt(2) * round_error
    distance = abs(centre - log(1 + TOLERANCE))
    decided = len(log_ratios) >= MIN_REPEATS and distance > Z_ONE_SIDED * error
    # Records hold finite numbers.
    half = min(student_t(max(len(log_ratios) - 1, 1)) * error, log(sys.float_info.max) / 2)
    return Gain(
        over=over,
        ratio=exp(centre),
        low=exp(centre - half),
        high=exp(centre + half),
        rounds=len(log_ratios),
        decided=decided,
    )


def is_flat(compared: Gain | None) -> bool:
    """True where a size was compared and is not faster per sample than the best smaller one."""
    return compared is not None and compared.ratio < 1 + TOLERANCE

"""A plot of an answer by matplotlib, which need not be installed for anything else."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from autobatch.records.errors import AutobatchError
from autobatch.records.recommendation import Recommendation
from autobatch.reports.relative_times import relative_intervals, times_to_draw
from autobatch.reports.text.row_choice import latest
from autobatch.reports.text.size_marks import CURRENT, RECOMMENDED, is_answer


def draw(recommendation: Recommendation, axes: Any = None) -> Any:
    """Draw the relative time over the batch size with its 90% intervals, or the throughput without times.

    `axes`: matplotlib's Axes to draw in; new ones if None. Returns them. Raises AutobatchError without
    matplotlib.
    """
    if axes is None:
        _, axes = _pyplot().subplots()
    times = times_to_draw(recommendation)
    values, intervals, label = (
        (times, relative_intervals(recommendation), "relative time")
        if len(times) > 1
        else (*_throughput(recommendation), "samples per second")
    )
    sizes = sorted(values)
    ends = [intervals.get(size, (values[size], values[size])) for size in sizes]
    # An interval of a damaged file may lie beside its value; lengths below 0 are refused.
    below = [max(0.0, values[size] - low) for size, (low, _) in zip(sizes, ends, strict=True)]
    above = [max(0.0, high - values[size]) for size, (_, high) in zip(sizes, ends, strict=True)]
    axes.errorbar(
        sizes, [values[size] for size in sizes], yerr=[below, above], marker="o", capsize=3, color="0.45"
    )
    for size in sizes:
        word = CURRENT if size == recommendation.workload.batch_size else ""
        word = RECOMMENDED if is_answer(size, recommendation) and not word else word
        if word:
            axes.plot(
                [size],
                [values[size]],
                marker="o",
                markersize=9,
                linestyle="none",
                zorder=3,
                label=f"{word}: {size:,}",
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xlabel("batch size")
    axes.set_ylabel(label)
    axes.legend()
    return axes


def _throughput(recommendation: Recommendation) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """Return samples per second and their 90% intervals, by batch size."""
    trials = [trial for trial in latest(recommendation) if trial.ok]
    rates = {trial.batch_size: trial.samples_per_second for trial in trials}
    intervals = {trial.batch_size: trial.samples_per_second_interval for trial in trials}
    return (
        {size: rate for size, rate in rates.items() if rate is not None},
        {size: interval for size, interval in intervals.items() if interval is not None},
    )


def _pyplot() -> Any:
    try:
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise AutobatchError(
            "a plot needs matplotlib, which is not installed",
            code="no_matplotlib",
            facts=(str(error),),
            hint="run `pip install matplotlib`, or write a page with `--html`",
        ) from error

"""The charts of the trials: throughput and memory over the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import linear_regression

from autobatch.records.formatting import format_bytes, format_rate, format_spread
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import LimitedBy, Outcome, Trial
from autobatch.reports.html import axes, svg
from autobatch.reports.html.chart import (
    Chart,
    Point,
    crosses,
    dots,
    fits_chart,
    size_axis,
    summary,
    with_failures,
)
from autobatch.reports.text.row_choice import latest

_IDEAL_CAPTION = "Dashed: in proportion to the batch size."
_THROUGHPUT_CAPTION = f"{_IDEAL_CAPTION} Upright lines: 90% interval over separate rounds."
# An interval that ends further above the highest rate than this must not press all others flat.
_MAX_INTERVAL = 1.4
# A limit further above the highest peak than this would press the curve flat; then words replace it.
_LIMIT_IN_SIGHT = 4.0
# Room above the highest peak for the words on a limit that is out of sight.
_HEADROOM = 1.25


def throughput(recommendation: Recommendation) -> Chart | None:
    """Draw samples per second over the batch size, with their intervals."""
    trials = latest(recommendation)
    passed = [
        trial
        for trial in trials
        if trial.ok and fits_chart(trial.batch_size) and fits_chart(trial.samples_per_second or 0.0)
    ]
    if not passed:
        return None
    points = [_rate_point(trial) for trial in passed]
    failures = [trial for trial in trials if not trial.ok and fits_chart(trial.batch_size)]
    intervals = [(trial.batch_size, trial.samples_per_second_interval or ()) for trial in passed]
    ends = [end for _, interval in intervals for end in interval if fits_chart(end)]
    highest = max(point.value for point in points)
    top = max([highest, *(end for end in ends if end < _MAX_INTERVAL * highest)])
    frame = svg.Frame(
        size_axis([point.batch_size for point in points], failures),
        axes.amount_axis(top, "samples/s", lambda value: format_rate(value)),
    )
    bars = [
        svg.interval(frame, size, *interval)
        for size, interval in intervals
        if interval and all(map(isfinite, interval))
    ]
    return Chart(
        "Throughput",
        svg.picture(
            "Throughput over batch size. " + summary(points, recommendation),
            frame,
            *bars,
            svg.curve(frame, _ideal(points, frame.y.high), "ideal"),
            svg.curve(frame, [(point.batch_size, point.value) for point in points], "line"),
            *crosses(frame, failures),
            *dots(frame, points, recommendation),
        ),
        with_failures(_THROUGHPUT_CAPTION if ends else _IDEAL_CAPTION, failures),
    )


def memory(recommendation: Recommendation) -> Chart | None:
    """Draw the peak of memory over the batch size, with the limit above it."""
    trials = latest(recommendation)
    points = [
        Point(
            trial.batch_size,
            float(trial.peak_bytes),
            f"batch size {trial.batch_size:,}: {format_bytes(trial.peak_bytes)}",
        )
        for trial in trials
        if trial.ok and trial.peak_bytes and fits_chart(trial.batch_size) and fits_chart(trial.peak_bytes)
    ]
    if not points:
        return None
    device, ceiling = recommendation.device, recommendation.ceiling
    limit, name = (device.free_bytes, "free") if device.limit_bytes is None else (device.limit_bytes, "limit")
    failures = [
        trial for trial in trials if trial.outcome is Outcome.OUT_OF_MEMORY and fits_chart(trial.batch_size)
    ]
    highest = max(point.value for point in points)
    in_sight = limit is not None and fits_chart(limit) and limit < _LIMIT_IN_SIGHT * highest
    top = max(highest, limit or 0.0) if in_sight else _HEADROOM * highest
    frame = svg.Frame(
        size_axis([point.batch_size for point in points], failures),
        axes.amount_axis(top, "peak memory", _bytes_text, base=1024),
    )
    parts = [svg.curve(frame, [(point.batch_size, point.value) for point in points], "line")]
    if limit is not None:
        words = f"{name} {format_bytes(limit)}"
        parts.append(svg.level(frame, limit, words) if in_sight else svg.remark(f"↑ {words}, far above"))
    if fits_chart(ceiling.batch_size) and ceiling.limited_by in (LimitedBy.MEMORY, LimitedBy.SIZE_LIMIT):
        parts.append(svg.upright(frame, ceiling.batch_size, f"largest {ceiling.batch_size:,}"))
    fitted = _memory_line(points)
    if fitted:
        parts.insert(0, svg.curve(frame, fitted, "ideal"))
    caption = "Peak memory above the idle process." + (
        " Dashed: straight line of best fit." if fitted else ""
    )
    return Chart(
        "Memory",
        svg.picture(
            "Peak memory over batch size. " + summary(points, recommendation),
            frame,
            *parts,
            *crosses(frame, failures),
            *dots(frame, points, recommendation),
        ),
        with_failures(caption, failures),
    )


def _ideal(points: Sequence[Point], top: float) -> list[tuple[float, float]]:
    """Return the line of throughput in proportion to the batch size, from the smallest size up to `top`."""
    first = points[0]
    largest = min(points[-1].batch_size, first.batch_size * top / first.value)
    steps = 24  # a straight line is bent on a logarithmic axis
    sizes = [first.batch_size * (largest / first.batch_size) ** (step / steps) for step in range(steps + 1)]
    return [(size, first.value * size / first.batch_size) for size in sizes]


def _rate_point(trial: Trial) -> Point:
    rate, interval = trial.samples_per_second or 0.0, trial.samples_per_second_interval
    spread = "" if interval is None else f" ± {format_spread(rate, interval)}"
    words = f"batch size {trial.batch_size:,}: {format_rate(rate)} samples/s{spread}"
    return Point(trial.batch_size, rate, words)


def _memory_line(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Return the line fixed + per sample x B of best fit, over the sizes; empty for fewer than three."""
    if len(points) < 3:
        return []
    slope, fixed = linear_regression(
        [float(point.batch_size) for point in points], [point.value for point in points]
    )
    low, high = points[0].batch_size, points[-1].batch_size
    steps = 24  # a straight line is bent on a logarithmic axis
    sizes = [low * (high / low) ** (step / steps) for step in range(steps + 1)]
    return [(size, max(0.0, fixed + slope * size)) for size in sizes]


def _bytes_text(value: float) -> str:
    return format_bytes(round(value)).replace(".0 ", " ")

"""The charts of the decision: time over the batch size, and the speedup with its interval."""

from __future__ import annotations

from autobatch.decision.constants import TOLERANCE
from autobatch.records.recommendation import Recommendation
from autobatch.reports.html import axes, svg
from autobatch.reports.html.chart import Chart, Point, dots, fits_chart, size_axis, summary
from autobatch.reports.html.markup import Markup, element
from autobatch.reports.relative_times import LONGEST, SHORTEST, relative_intervals, times_to_draw
from autobatch.reports.text.answer import is_kept
from autobatch.reports.text.lines import clean
from autobatch.reports.text.same_epochs_table import ratio_text
from autobatch.reports.text.size_marks import veto_of

_BAR_WIDTH, _BAR_HEIGHT, _BAR_AT, _BAR_MARGIN = 400, 62, 30, 14


def time_over_size(recommendation: Recommendation) -> Chart | None:
    """Draw the time of a training at each size, relative to the recommended size, with its interval.

    With a decision it is the time of the same epochs, else the expected time to the same loss.
    """
    times = {size: time for size, time in times_to_draw(recommendation).items() if fits_chart(size)}
    if len(times) < 2:
        return None
    epochs = recommendation.epochs
    title = "Time to the same loss"
    if recommendation.decision is not None:
        title = "Time for the same epochs" if epochs is None else f"Time for your {epochs:g} epochs"
    intervals = {size: ends for size, ends in relative_intervals(recommendation).items() if size in times}
    caption = "Relative to the recommended size."
    if intervals:
        caption += " Band: 90% interval."
    worse = _worse_sizes(recommendation, times)
    if worse:
        caption += " Rings: sizes that end at a higher loss."
    if any(veto_of(size, recommendation) for size in times):
        caption += " Crosses: sizes that trained worse."
    pictures = [
        _time_picture(title, times, intervals, worse, recommendation, width)
        for width in (svg.WIDTH, svg.FULL_WIDTH)
    ]
    return Chart(title, pictures[0], caption, wide=pictures[1])


def _time_picture(
    title: str,
    times: dict[int, float],
    intervals: dict[int, tuple[float, float]],
    worse: set[int],
    recommendation: Recommendation,
    width: int,
) -> Markup:
    points = [Point(size, time, _words(size, time, intervals)) for size, time in times.items()]
    vetoed = {size: veto for size in times if (veto := veto_of(size, recommendation)) is not None}
    shown = [point for point in points if point.batch_size not in vetoed] or points
    ends = [end for interval in intervals.values() for end in interval]
    frame = svg.Frame(
        size_axis(list(times), width=width),
        axes.range_axis([*times.values(), *ends], "relative time", lambda value: f"{value:.3g}×"),
        width,
    )
    parts = [svg.zone(frame, 1 / (1 + TOLERANCE), 1 + TOLERANCE, f"within {TOLERANCE:.0%}")]
    if len(intervals) > 1:
        lows = [(float(size), low) for size, (low, _) in intervals.items()]
        highs = [(float(size), high) for size, (_, high) in intervals.items()]
        parts.append(svg.band(frame, lows, highs))
    parts.append(svg.curve(frame, [(point.batch_size, point.value) for point in points], "line expected"))
    parts += [
        svg.cross(frame, size, f"batch size {size:,} is vetoed: {clean(veto.reason)}", y=times[size])
        for size, veto in vetoed.items()
    ]
    alternative = f"{title}, over the batch size. {summary(shown, recommendation)}"
    return svg.picture(alternative, frame, *parts, *dots(frame, shown, recommendation, worse))


def _words(size: int, time: float, intervals: dict[int, tuple[float, float]]) -> str:
    text = f"batch size {size:,}: {ratio_text(time)}× the time"
    if size not in intervals:
        return text
    low, high = map(ratio_text, intervals[size])
    return text if low == high else f"{text} (90% CI {low} to {high})"


def _worse_sizes(recommendation: Recommendation, times: dict[int, float]) -> set[int]:
    """Return the sizes that are expected to end at a higher loss."""
    rows = recommendation.same_epochs if recommendation.decision is not None else ()
    return {row.batch_size for row in rows if row.batch_size in times and row.harm and not row.safe}


def speedup(recommendation: Recommendation) -> Markup | None:
    """Draw the speedup of the answer with its 90% interval, against 1x; None without a change."""
    value = _speedup(recommendation)
    if value is None or not all(SHORTEST < end < LONGEST for end in value):
        return None
    low, middle, high = value
    least, most = min(0.9, low * 0.95), max(1.1, high * 1.05)

    def across(ratio: float) -> float:
        return _BAR_MARGIN + (ratio - least) / (most - least) * (_BAR_WIDTH - 2 * _BAR_MARGIN)

    words = f"Speedup {ratio_text(middle)}x, 90% interval {ratio_text(low)} to {ratio_text(high)}."
    start, end, at = across(low), across(high), across(middle)
    one = across(1.0)
    return element(
        "svg",
        _rule(_BAR_MARGIN, _BAR_AT, _BAR_WIDTH - _BAR_MARGIN, _BAR_AT, "grid"),
        _rule(one, _BAR_AT - 16, one, _BAR_AT + 14, "rule"),
        _label(one, _BAR_AT + 28, "1x: current", "remark", "middle" if one > 40 else "start"),
        _rule(start, _BAR_AT, end, _BAR_AT, "interval"),
        element("circle", element("title", words), cx=at, cy=float(_BAR_AT), r=5.5, class_="chosen"),
        _label(at, _BAR_AT - 12, f"{ratio_text(middle)}x faster", "use", "middle" if at < 340 else "end"),
        class_="chart speedup",
        viewBox=f"0 0 {_BAR_WIDTH} {_BAR_HEIGHT}",
        role="img",
        aria_label=words,
        font_size=11,
        fill="currentColor",
    )


def _speedup(recommendation: Recommendation) -> tuple[float, float, float] | None:
    """Return (low, speedup, high) of the recommended size over the current one."""
    size, current = recommendation.batch_size, recommendation.current
    if is_kept(recommendation) or recommendation.stopped:
        return None
    if recommendation.decision is not None:
        row = next((row for row in recommendation.same_epochs if row.batch_size == size), None)
        return None if row is None else (row.interval[0], row.speedup, row.interval[1])
    return None if current is None else (current.low, current.relative_time, current.high)


def _rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    places = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return element("line", class_=class_, stroke="currentColor", **places)


def _label(x: float, y: float, text: str, class_: str, anchor: str) -> Markup:
    return element("text", text, x=float(x), y=float(y), class_=class_, text_anchor=anchor)

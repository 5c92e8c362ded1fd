"""The parts of a chart as SVG: axes, lines, points and names, of any quantity.

A chart is 400 by 286 units, so that its letters stay readable on a telephone's 343 pixels; a chart for the
whole page is wider. Colours come from the page's style sheet. Without it, everything has the colour of the
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autobatch.reports.html.axes import LETTER, Axis
from autobatch.reports.html.markup import Markup, element

WIDTH, FULL_WIDTH, HEIGHT = 400, 860, 286
_LEFT, _RIGHT_MARGIN, _TOP, _TOP_ALONE, _BOTTOM = 60, 16, 54, 30, 242
# The lines above the plot for the names of sizes, clear of everything that is drawn.
_NAME_LINES = (46, 31)


@dataclass(frozen=True, slots=True)
class Frame:
    """Two axes, which place a pair of values in the picture of a width.

    `has_names`: room for the names of sizes is kept above the plot.
    """

    x: Axis
    y: Axis
    width: int = WIDTH
    has_names: bool = True

    @property
    def right(self) -> int:
        return self.width - _RIGHT_MARGIN

    @property
    def top(self) -> int:
        return _TOP if self.has_names else _TOP_ALONE

    def across(self, value: float) -> float:
        return _LEFT + self.x.share(value) * (self.right - _LEFT)

    def down(self, value: float) -> float:
        return _BOTTOM - self.y.share(value) * (_BOTTOM - self.top)


def plot_length(width: int) -> int:
    """Return the length of the horizontal axis in a picture of this width."""
    return width - _RIGHT_MARGIN - _LEFT


def picture(alternative: str, frame: Frame, *parts: Markup) -> Markup:
    """Draw the axes with their labels, then `parts`; `alternative` describes the chart in words."""
    return element(
        "svg",
        _axes(frame),
        *parts,
        class_="chart" if frame.width == WIDTH else "chart wide",
        viewBox=f"0 0 {frame.width} {HEIGHT}",
        role="img",
        aria_label=alternative,
        font_size=11,
        fill="currentColor",
    )


def _axes(frame: Frame) -> Markup:
    parts = []
    for value, text in frame.y.ticks:
        y = frame.down(value)
        parts.append(_line(_LEFT, y, frame.right, y, "grid"))
        parts.append(_text(_LEFT - 8, y + 4, text, "tick", "end"))
    for value, text in frame.x.ticks:
        x = frame.across(value)
        parts.append(_line(x, _BOTTOM, x, _BOTTOM + 4, "axis"))
        parts.append(_text(x, _BOTTOM + 18, text, "tick", "middle"))
    parts.append(_line(_LEFT, _BOTTOM, frame.right, _BOTTOM, "axis"))
    parts.append(_text(4, 14, frame.y.label, "label", "start"))
    parts.append(_text((_LEFT + frame.right) / 2, _BOTTOM + 38, frame.x.label, "label", "middle"))
    return element("g", *parts, class_="axes")


def curve(frame: Frame, points: Iterable[tuple[float, float]], class_: str, title: str = "") -> Markup:
    """Draw a line through the points."""
    drawn = " ".join(f"{frame.across(x):.1f},{frame.down(y):.1f}" for x, y in points)
    tip = element("title", title) if title else None
    return element("polyline", tip, points=drawn, class_=class_, fill="none", stroke="currentColor")


def interval(frame: Frame, x: float, low: float, high: float) -> Markup:
    """Draw the interval of a value as an upright line."""
    return _line(frame.across(x), frame.down(low), frame.across(x), frame.down(high), "interval")


def dot(frame: Frame, x: float, y: float, title: str, class_: str, radius: float = 3.2) -> Markup:
    """Draw a point with its figures as a tooltip."""
    return element(
        "circle",
        element("title", title),
        cx=frame.across(x),
        cy=frame.down(y),
        r=radius,
        class_=class_,
    )


def cross(frame: Frame, x: float, title: str, y: float | None = None) -> Markup:
    """Draw a cross for a failure; at the upper end if it has no value."""
    across, down = frame.across(x), frame.top + 5 if y is None else frame.down(y)
    arms = f"M{across - 4:.1f} {down - 4:.1f}l8 8m0 -8l-8 8"
    return element(
        "path", element("title", title), d=arms, class_="cross", fill="none", stroke="currentColor"
    )


@dataclass(frozen=True, slots=True)
class Name:
    """The words for a point (x, y), which stand above the plot, on a line down to the point."""

    x: float
    y: float
    text: str
    class_: str


def names(frame: Frame, given: Sequence[Name]) -> list[Markup]:
    """Write names above the plot, each in the first line where it overlaps no name to its left."""
    parts: list[Markup] = []
    ends = [0.0] * len(_NAME_LINES)
    for name in sorted(given, key=lambda name: name.x):
        across, half = frame.across(name.x), len(name.text) * LETTER / 2
        middle = min(max(across, _LEFT + half), frame.width - half)
        line = next((at for at, end in enumerate(ends) if middle - half > end), len(ends) - 1)
        ends[line] = middle + half
        parts.append(_line(across, _NAME_LINES[line] + 4, across, frame.down(name.y), "leader"))
        parts.append(_text(middle, _NAME_LINES[line], name.text, name.class_, "middle"))
    return parts


def level(frame: Frame, y: float, text: str) -> Markup:
    """Draw a horizontal rule with a text on it."""
    down = frame.down(y)
    return element(
        "g",
        _line(_LEFT, down, frame.right, down, "rule"),
        _text(_LEFT + 6, down - 5, text, "remark", "start"),
    )


def zone(frame: Frame, low: float, high: float, text: str) -> Markup:
    """Shade the values between two levels, with a text at the right end."""
    top, bottom, reach = frame.down(high), frame.down(low), frame.right - _LEFT
    area = f"M{_LEFT} {top:.1f}h{reach}l0 {bottom - top:.1f}h-{reach}"
    return element(
        "g",
        element("path", d=area, class_="zone", fill="currentColor", fill_opacity=0.08),
        _text(frame.right - 4, top - 4, text, "remark", "end"),
    )


def band(frame: Frame, lows: Sequence[tuple[float, float]], highs: Sequence[tuple[float, float]]) -> Markup:
    """Fill the area between two lines over the same x."""
    outline = [*lows, *reversed(highs)]
    drawn = " ".join(f"{frame.across(x):.1f},{frame.down(y):.1f}" for x, y in outline)
    return element("polyline", points=drawn, class_="band", fill="currentColor", fill_opacity=0.16)


def upright(frame: Frame, x: float, text: str) -> Markup:
    """Draw an upright rule with a text beside its lower end."""
    across = frame.across(x)
    room = across + 6 + len(text) * LETTER < frame.width
    return element(
        "g",
        _line(across, frame.top - 2, across, _BOTTOM, "rule"),
        _text(across + (6 if room else -6), _BOTTOM - 7, text, "remark", "start" if room else "end"),
    )


def remark(text: str) -> Markup:
    """Write a remark in the upper left corner of the chart."""
    return _text(_LEFT + 6, _TOP + 8, text, "remark", "start")


def sample(class_: str) -> Markup:
    """Draw a piece of a line for a legend."""
    return element(
        "svg",
        element("path", d="M1 6h22", class_=class_, fill="none", stroke="currentColor"),
        class_="sample",
        viewBox="0 0 24 12",
        width=24,
        height=12,
        aria_hidden="true",
    )


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    places = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return element("line", class_=class_, stroke="currentColor", **places)


def _text(x: float, y: float, text: str, class_: str, anchor: str) -> Markup:
    return element("text", text, x=float(x), y=float(y), class_=class_, text_anchor=anchor)

"""A chart of an answer, and the parts that charts over the batch size share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Trial
from autobatch.reports.html import svg
from autobatch.reports.html.markup import Markup
from autobatch.reports.text.table import failure_text

SIZE_LABEL = "batch size (logarithmic)"
# Beyond any real figure, and too large for a chart.
LARGEST = 1e15
_RADIUS, _NAMED_RADIUS = 3.2, 5.5


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its title, its caption, and a legend of (stroke, words) for each line."""

    title: str
    picture: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a batch size, and its figures in words."""

    batch_size: int
    value: float
    words: str


def fits_chart(value: float) -> bool:
    """True for a figure that a chart can hold; a damaged or hostile file may hold any."""
    return 1 / LARGEST < value < LARGEST


def size_axis(sizes: Sequence[int], failures: Sequence[Trial] = ()) -> svg.Axis:
    """Return the axis that holds all sizes, those that failed too."""
    every = [*sizes, *(trial.batch_size for trial in failures)]
    return svg.doubling_axis([float(size) for size in every], SIZE_LABEL)


def crosses(frame: svg.Frame, failures: Sequence[Trial]) -> list[Markup]:
    """Draw a cross for each size that failed."""
    return [
        svg.cross(frame, trial.batch_size, f"batch size {trial.batch_size}: {failure_text(trial)}")
        for trial in failures
    ]


def dots(
    frame: svg.Frame,
    points: Sequence[Point],
    recommendation: Recommendation,
    hollow: set[int] | frozenset[int] = frozenset(),
    *,
    below: bool = False,
) -> list[Markup]:
    """Draw a dot for each size. The current and the recommended size come last, with their names.

    `hollow`: sizes whose dot is a ring. `below`: the name of the recommended size is below its dot.
    """
    recommended, current = recommendation.batch_size, recommendation.workload.batch_size
    plain: list[Markup] = []
    named: list[Markup] = []
    for point in points:
        size, value = point.batch_size, point.value
        kind = "chosen" if size == recommended else "current" if size == current else "dot"
        class_ = f"{kind} hollow" if size in hollow else kind
        radius = _RADIUS if kind == "dot" else _NAMED_RADIUS
        dot = svg.dot(frame, size, value, point.words, class_, radius)
        (plain if kind == "dot" else named).append(dot)
        if kind == "chosen":
            named.append(svg.note(frame, size, value, f"use {size}", "use", below=below))
        elif kind == "current":
            named.append(svg.note(frame, size, value, f"now {size}", "now", below=not below))
    return plain + named


def summary(points: Sequence[Point], recommendation: Recommendation) -> str:
    """Describe the first, the last and the recommended point."""
    texts = [points[0].words, points[-1].words] if len(points) > 1 else [points[0].words]
    texts += [
        f"recommended: {point.words}" for point in points if point.batch_size == recommendation.batch_size
    ]
    return "; ".join(texts) + "."


def with_failures(caption: str, failures: Sequence[Trial]) -> str:
    """Add to a caption the meaning of the crosses, if there are any."""
    return " ".join(filter(None, (caption, "Crosses: sizes that failed." if failures else "")))

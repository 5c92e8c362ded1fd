"""A chart of an answer, and the parts that charts over the batch size share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Trial
from autobatch.reports.html import axes, svg
from autobatch.reports.html.markup import Markup
from autobatch.reports.text.size_marks import CURRENT, RECOMMENDED, is_answer
from autobatch.reports.text.table import failure_text

SIZE_LABEL = "batch size (logarithmic)"
# Beyond any real figure, and too large for a chart.
LARGEST = 1e15
_RADIUS, _NAMED_RADIUS = 3.2, 5.5


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its title, its caption, and a legend of (stroke, words) for each line.

    `wide`: the same over the whole width of a desk's screen; `picture` is then for a telephone.
    """

    title: str
    picture: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    wide: Markup | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a batch size, and its figures in words."""

    batch_size: int
    value: float
    words: str


def fits_chart(value: float) -> bool:
    """True for a figure that a chart can hold; a damaged or hostile file may hold any."""
    return 1 / LARGEST < value < LARGEST


def size_axis(sizes: Sequence[int], failures: Sequence[Trial] = (), width: int = svg.WIDTH) -> axes.Axis:
    """Return the axis that holds all sizes, those that failed too."""
    every = [*sizes, *(trial.batch_size for trial in failures)]
    return axes.doubling_axis([float(size) for size in every], SIZE_LABEL, svg.plot_length(width))


def crosses(frame: svg.Frame, failures: Sequence[Trial]) -> list[Markup]:
    """Draw a cross for each size that failed."""
    return [
        svg.cross(frame, trial.batch_size, f"batch size {trial.batch_size:,}: {failure_text(trial)}")
        for trial in failures
    ]


def dots(
    frame: svg.Frame, points: Sequence[Point], recommendation: Recommendation, hollow: Collection[int] = ()
) -> list[Markup]:
    """Draw a dot for each size, a ring for those in `hollow`.

    The current and the recommended size come last, larger, with their names above the plot.
    """
    plain: list[Markup] = []
    larger: list[Markup] = []
    named: list[svg.Name] = []
    for point in points:
        size, value = point.batch_size, point.value
        is_current = size == recommendation.workload.batch_size
        kind = "chosen" if is_answer(size, recommendation) else "current" if is_current else "dot"
        class_ = f"{kind} hollow" if size in hollow else kind
        radius = _RADIUS if kind == "dot" else _NAMED_RADIUS
        (plain if kind == "dot" else larger).append(svg.dot(frame, size, value, point.words, class_, radius))
        if kind != "dot":
            word = CURRENT if is_current else RECOMMENDED
            named.append(svg.Name(size, value, f"{word} {size:,}", "use" if kind == "chosen" else "now"))
    return [*svg.names(frame, named), *plain, *larger]


def summary(points: Sequence[Point], recommendation: Recommendation) -> str:
    """Describe the first, the last and the recommended point."""
    texts = [points[0].words, points[-1].words] if len(points) > 1 else [points[0].words]
    texts += [
        f"recommended: {point.words}" for point in points if is_answer(point.batch_size, recommendation)
    ]
    return "; ".join(texts) + "."


def with_failures(caption: str, failures: Sequence[Trial]) -> str:
    """Add to a caption the meaning of the crosses, if there are any."""
    return " ".join(filter(None, (caption, "Crosses: sizes that failed." if failures else "")))

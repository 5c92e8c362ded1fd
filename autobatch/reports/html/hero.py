"""The head of the page: the answer in large figures, its speedup and confidence, and its warnings."""

from __future__ import annotations

from autobatch.records.formatting import format_count
from autobatch.records.recommendation import Recommendation
from autobatch.reports import snippets
from autobatch.reports.html import time_charts
from autobatch.reports.html.markup import Markup, element
from autobatch.reports.text import answer
from autobatch.reports.text.lines import counted
from autobatch.reports.text.notices import notices

# Digits of a large figure that the letters of the answer leave room for.
_LARGE_DIGITS = 5


def render(recommendation: Recommendation) -> Markup:
    """Build the card of the answer."""
    return element(
        "section",
        element("h2", "Recommendation", id="answer"),
        _stopped(recommendation) if recommendation.stopped else _figures(recommendation),
        time_charts.speedup(recommendation),
        *(element("p", text, class_="fact") for text in answer.facts(recommendation)),
        *(element("p", text, class_="fact also") for text in answer.alternatives(recommendation)),
        _warnings(recommendation),
        class_="card hero",
        aria_labelledby="answer",
    )


def _stopped(recommendation: Recommendation) -> Markup:
    return element("p", answer.headline(recommendation), class_="headline")


def _figures(recommendation: Recommendation) -> Markup:
    return element(
        "dl",
        _figure("Batch size", f"{recommendation.batch_size:,}", _current_text(recommendation), "first"),
        _figure("Learning rate", *_learning_rate(recommendation)),
        _figure("Accumulation", *_accumulation(recommendation)),
        class_="answer",
    )


def _figure(label: str, figure: str, remark: str, class_: str = "") -> Markup:
    quiet = "" if any(char.isdigit() for char in figure) else " quiet"
    # A larger figure gets smaller letters, so that it stays on one line.
    size = (
        f"font-size: {_LARGE_DIGITS / len(figure) * 5:.2f}rem"
        if class_ and len(figure) > _LARGE_DIGITS
        else None
    )
    return element(
        "div",
        element("dt", label),
        element("dd", figure, class_=f"figure{quiet}", style=size),
        element("dd", remark, class_="remark"),
        class_=class_ or None,
    )


def _current_text(recommendation: Recommendation) -> str:
    """Relate the batch size to the ranks, or to the current size."""
    world, total = recommendation.world_size, format_count(recommendation.global_batch_size)
    current = recommendation.workload.batch_size
    if world > 1:
        return f"on each of {counted(world, 'rank')}: {total} samples per optimizer step"
    if current is None:
        return "the current size is unknown"
    return "keep the current size" if current == recommendation.batch_size else f"current: {current:,}"


def _learning_rate(recommendation: Recommendation) -> tuple[str, str]:
    rate, factor = snippets.learning_rate_text(recommendation), snippets.factor_text(recommendation)
    if not factor:
        return (rate or "yours", "" if rate else "no check has suggested another")
    current = recommendation.workload.learning_rate
    remark = f"the current one × {factor}" if current is None else f"current: {current:.2g}"
    remark = "keep the current one" if factor == "1" else remark
    return (rate, remark) if rate else (f"× {factor}", "the factor for every parameter group")


def _accumulation(recommendation: Recommendation) -> tuple[str, str]:
    steps = recommendation.accumulation_steps
    if steps == 1:
        return "none", "an optimizer step for each batch"
    total = format_count(recommendation.global_batch_size)
    return f"{format_count(steps)} steps", f"{total} samples per optimizer step"


def _warnings(recommendation: Recommendation) -> Markup | None:
    """Build the box of the most useful warnings, with the others folded below them."""
    shown, further = notices(recommendation)
    if not shown and not further:
        return None
    more = None
    if further:
        title = element("summary", counted(len(further), "more warning"))
        more = element("details", title, element("ul", *(element("li", text) for text in further)))
    box = (
        [element("h3", "Warnings"), element("ul", *(element("li", text) for text in shown))] if shown else []
    )
    return element("div", *box, more, class_="warnings")

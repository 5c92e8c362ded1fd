"""The report for a browser: one page that fetches nothing, light or dark, for any width and for paper.

It has no scripts: the browser itself folds what is folded. `element` escapes every text.
"""

from __future__ import annotations

from autobatch._version import __version__
from autobatch.records.formatting import format_count
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.reports import snippets
from autobatch.reports.html import charts, facts, style, svg, tables
from autobatch.reports.html.chart import Chart
from autobatch.reports.html.markup import Markup, element, join
from autobatch.reports.text.answer import Statement, statements
from autobatch.reports.text.lines import clean, counted, shorten
from autobatch.storage import codec

# Whatever gets into the page, no script runs there, and it loads nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_LABELS = {
    "fits": "Fits",
    "memory": "Memory",
    "data": "Data",
    "speed": "Speed",
    "loader": "Loading",
    "check": "Check",
    "ranks": "Ranks",
    "steps": "Schedule",
}
# Statements beside the answer, in this order.
_REASONS = ("why", "sure", "also", "gain")
_HEADING_CELLS, _TITLE_CELLS = 48, 40
# Digits of a large figure that the letters of the answer leave room for.
_LARGE_DIGITS = 5


def render(recommendation: Recommendation) -> str:
    """Render the whole page: one HTML document."""
    shown = statements(recommendation)
    page = element(
        "html",
        _head(recommendation),
        element(
            "body",
            _top(recommendation),
            _title(recommendation),
            element(
                "main",
                _answer(recommendation, shown),
                _measurements(recommendation),
                _trials(recommendation, shown),
                _use(recommendation),
                _environment(recommendation),
                _raw(recommendation),
            ),
            element("footer", element("p", _footer(recommendation.environment))),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _head(recommendation: Recommendation) -> Markup:
    model = shorten(clean(recommendation.workload.model), _TITLE_CELLS)
    parts = (f"batch size {recommendation.batch_size}", model, "autobatch")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", " · ".join(part for part in parts if part)),
        element("style", Markup(style.page())),
    )


def _top(recommendation: Recommendation) -> Markup:
    environment = recommendation.environment
    version = clean(environment.autobatch) if environment else __version__
    when = None if environment is None else facts.date(environment.started_at)
    return element("header", element("span", element("b", "autobatch"), f" {version}"), when, class_="top")


def _title(recommendation: Recommendation) -> Markup:
    model = shorten(clean(recommendation.workload.model), _HEADING_CELLS)
    heading = join("Batch size for ", element("bdi", model)) if model else "Batch size"
    pairs = [*facts.of_device(recommendation.device), *facts.of_workload(recommendation.workload)]
    return element("div", element("h1", heading), facts.listed(pairs), class_="head")


def _answer(recommendation: Recommendation, shown: list[Statement]) -> Markup:
    """Build the answer in large figures, with its reason, its gain and its warnings."""
    reasons = [element("p", said.text, class_="why") for said in shown if said.label in _REASONS]
    warnings = [element("li", statement.text) for statement in shown if statement.tone == "doubt"]
    box = None
    if warnings:
        box = element("div", element("h3", "Doubts"), element("ul", *warnings), class_="doubts")
    return element(
        "section",
        element("h2", "Recommendation", id="answer"),
        element(
            "dl",
            _figure("Batch size", str(recommendation.batch_size), _ranks_text(recommendation), "first"),
            _figure("Learning rate", *_learning_rate(recommendation)),
            _figure("Accumulation", *_accumulation(recommendation)),
            class_="answer",
        ),
        *reasons,
        box,
        class_="card hero",
        aria_labelledby="answer",
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


def _ranks_text(recommendation: Recommendation) -> str:
    """Relate the batch size to the ranks, or to the current size."""
    world, total = recommendation.world_size, format_count(recommendation.global_batch_size)
    current = recommendation.workload.batch_size
    if world > 1:
        return f"on each of {counted(world, 'rank')}: {total} samples an optimizer step"
    if current is None:
        return "samples that pass through the network at once"
    return "as you have it" if current == recommendation.batch_size else f"instead of {current}"


def _learning_rate(recommendation: Recommendation) -> tuple[str, str]:
    rate, factor = snippets.learning_rate_text(recommendation), snippets.factor_text(recommendation)
    if not factor:
        return (rate or "yours", "" if rate else "no check has found another one")
    remark = "as you have it" if factor == "1" else f"your present one × {factor}"
    return (rate, remark) if rate else (f"× {factor}", "what to multiply yours by")


def _accumulation(recommendation: Recommendation) -> tuple[str, str]:
    steps = recommendation.accumulation_steps
    if steps == 1:
        return "none", "an optimizer step each batch"
    total = format_count(recommendation.global_batch_size)
    return f"{format_count(steps)} steps", f"{total} samples an optimizer step"


def _measurements(recommendation: Recommendation) -> Markup | None:
    drawn = [_chart(chart) for chart in charts.drawn(recommendation)]
    if not drawn:
        return None
    return _section("charts", "What was measured", element("div", *drawn, class_="charts"))


def _chart(chart: Chart) -> Markup:
    legend = [element("li", svg.sample(stroke), words) for stroke, words in chart.legend]
    return element(
        "figure",
        element(
            "figcaption", element("h3", chart.title), element("p", chart.caption) if chart.caption else None
        ),
        chart.picture,
        element("ul", *legend, class_="legend") if legend else None,
    )


def _trials(recommendation: Recommendation, shown: list[Statement]) -> Markup:
    pairs = [
        (_LABELS[statement.label], join(statement.text))
        for statement in shown
        if statement.label in _LABELS and not statement.tone
    ]
    return _section(
        "trials",
        "Each size",
        tables.trials(recommendation),
        tables.trainings(recommendation),
        tables.devices(recommendation),
        facts.listed_in_rows(pairs),
    )


def _use(recommendation: Recommendation) -> Markup:
    pieces = []
    for snippet in snippets.made_for(recommendation):
        code = element("pre", element("code", snippet.code), tabindex=0)
        pieces.append(element("div", element("h3", snippet.title), code))
    return _section("use", "Use it", element("div", *pieces, class_="snippets"))


def _environment(recommendation: Recommendation) -> Markup | None:
    if recommendation.environment is None:
        return None
    pairs = facts.of_environment(recommendation.environment, recommendation.device)
    return _section("where", "Environment", facts.listed(pairs))


def _raw(recommendation: Recommendation) -> Markup:
    """Build the folded result as `--json` prints it; the text of the element can be loaded again."""
    words = element("span", "what --save writes and `autobatch show` reads")
    shown = element("pre", element("code", codec.render(recommendation), id="result"), tabindex=0)
    return element(
        "section",
        element("details", element("summary", "Raw result", words), shown),
        class_="card raw",
        aria_label="Raw result",
    )


def _section(name: str, title: str, *parts: Markup | None) -> Markup:
    return element("section", element("h2", title, id=name), *parts, class_="card", aria_labelledby=name)


def _footer(environment: Environment | None) -> str:
    version = clean(environment.autobatch) if environment else __version__
    return (
        f"Measured by autobatch {version}. Throughput, memory and losses were measured; "
        "expected times are predicted from them."
    )

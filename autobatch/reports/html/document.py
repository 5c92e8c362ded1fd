"""The report for a browser: one page that fetches nothing, light or dark, for any width and for paper.

It has no scripts: the browser itself folds what is folded. `element` escapes every text.
"""

from __future__ import annotations

from collections.abc import Callable

from autobatch._version import __version__
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.reports import snippets
from autobatch.reports.html import (
    facts,
    hero,
    loss_charts,
    size_charts,
    step_parts,
    style,
    svg,
    tables,
    time_charts,
)
from autobatch.reports.html.chart import Chart
from autobatch.reports.html.markup import Markup, element, join
from autobatch.reports.text import details
from autobatch.reports.text.lines import clean, shorten
from autobatch.storage import codec

# Whatever gets into the page, no script runs there, and it loads nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_LABELS = {
    "why": "Why",
    "fits": "Fits",
    "memory": "Memory",
    "data": "Data",
    "speed": "Step time",
    "loading": "Loading",
    "ranks": "Ranks",
    "check": "Check",
    "versions": "Versions",
}
_TITLE_CELLS = 40


def render(recommendation: Recommendation) -> str:
    """Render the whole page: one HTML document."""
    page = element(
        "html",
        _head(recommendation),
        element(
            "body",
            _top(recommendation),
            _title(recommendation),
            element("main", *(section(recommendation) for section in _SECTIONS)),
            element("footer", element("p", _footer(recommendation.environment))),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _head(recommendation: Recommendation) -> Markup:
    name = shorten(facts.name_of(recommendation.workload), _TITLE_CELLS)
    parts = (f"batch size {recommendation.batch_size:,}", name, "autobatch")
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
    name = shorten(facts.name_of(recommendation.workload), _TITLE_CELLS)
    heading = join("Batch size for ", element("bdi", name)) if name else "Batch size"
    pairs = [*facts.of_device(recommendation.device), *facts.of_workload(recommendation.workload)]
    return element("div", element("h1", heading), facts.listed(pairs), class_="head")


def _time(recommendation: Recommendation) -> Markup | None:
    """Build the chart of time over the batch size, and one sentence why."""
    chart = time_charts.time_over_size(recommendation)
    if chart is None:
        return None
    why = details.limit_text(recommendation)
    sentence = element("p", f"{why[:1].upper()}{why[1:]}.", class_="why") if why else None
    return _section("time", chart.title, _figure(chart, titled=False), sentence)


def _trainings(recommendation: Recommendation) -> Markup | None:
    charts = loss_charts.over_seconds(recommendation), loss_charts.over_epochs(recommendation)
    return _charts_section("trainings", "Short training runs", *charts)


def _sizes(recommendation: Recommendation) -> Markup | None:
    charts = size_charts.throughput(recommendation), size_charts.memory(recommendation)
    return _charts_section("sizes", "Throughput and memory", *charts)


def _step(recommendation: Recommendation) -> Markup | None:
    shown = step_parts.render(recommendation)
    return None if shown is None else _section("step", "Where a step's time goes", shown)


def _measurements(recommendation: Recommendation) -> Markup:
    pairs = [
        (_LABELS[statement.label], join(statement.text))
        for statement in details.statements(recommendation)
        if statement.label != "versions"
    ]
    return _section(
        "trials",
        "All measurements",
        tables.trials(recommendation),
        tables.trainings(recommendation),
        tables.devices(recommendation),
        facts.listed_in_rows(pairs),
    )


def _use(recommendation: Recommendation) -> Markup:
    """Build the snippets for the detected framework and a shell; the others are folded."""
    fitting, others = snippets.for_framework(recommendation)
    return _section(
        "use",
        "Use it",
        element("div", *map(_snippet, fitting), class_="snippets"),
        element(
            "details",
            element("summary", "Other frameworks"),
            element("div", *map(_snippet, others), class_="snippets"),
            class_="more",
        ),
    )


def _snippet(snippet: snippets.Snippet) -> Markup:
    code = element("pre", element("code", snippet.code), tabindex=0)
    return element("div", element("h3", snippet.title), code)


def _environment(recommendation: Recommendation) -> Markup | None:
    if recommendation.environment is None:
        return None
    pairs = facts.of_environment(recommendation.environment, recommendation.device)
    return _folded("Environment", "versions, platform, processor", facts.listed(pairs), "where")


def _raw(recommendation: Recommendation) -> Markup:
    """Build the folded result as `--json` prints it; the text of the element can be loaded again."""
    shown = element("pre", element("code", codec.render(recommendation), id="result"), tabindex=0)
    return _folded("Raw result", "the file of --save, for autobatch show", shown, "raw")


def _folded(title: str, words: str, content: Markup, class_: str) -> Markup:
    return element(
        "section",
        element("details", element("summary", title, element("span", words)), content),
        class_=f"card {class_}",
        aria_label=title,
    )


def _charts_section(name: str, title: str, *charts: Chart | None) -> Markup | None:
    drawn = [_figure(chart) for chart in charts if chart is not None]
    return _section(name, title, element("div", *drawn, class_="charts")) if drawn else None


def _figure(chart: Chart, *, titled: bool = True) -> Markup:
    legend = [element("li", svg.sample(stroke), words) for stroke, words in chart.legend]
    return element(
        "figure",
        element(
            "figcaption",
            element("h3", chart.title) if titled else None,
            element("p", chart.caption) if chart.caption else None,
        ),
        chart.picture,
        chart.wide,
        element("ul", *legend, class_="legend") if legend else None,
        class_=None if chart.wide is None else "both",
    )


def _section(name: str, title: str, *parts: Markup | None) -> Markup:
    return element("section", element("h2", title, id=name), *parts, class_="card", aria_labelledby=name)


def _footer(environment: Environment | None) -> str:
    version = clean(environment.autobatch) if environment else __version__
    return (
        f"Measured by autobatch {version}. Throughput, memory and losses were measured. "
        "Relative times and final losses are predicted from them."
    )


_SECTIONS: tuple[Callable[[Recommendation], Markup | None], ...] = (
    hero.render,
    _time,
    _trainings,
    _sizes,
    _step,
    _measurements,
    _use,
    _environment,
    _raw,
)

"""The report for a browser: one page that fetches nothing, light or dark, for any width and for paper.

Without scripts: what is folded is folded by the browser itself. Every text becomes markup in `element`, which
escapes it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from autobatch._version import __version__
from autobatch.records.device import Device
from autobatch.records.formatting import format_bytes, format_count, format_duration
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.records.workload import Workload
from autobatch.reports import snippets
from autobatch.reports.html import charts, style, svg, tables
from autobatch.reports.html.markup import Markup, element, join
from autobatch.reports.text.answer import Statement, statements
from autobatch.reports.text.lines import clean, counted, shorten
from autobatch.reports.text.terminal import memory_text
from autobatch.storage import codec

# No script runs on the page, and it loads nothing, whatever gets into it.
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
_NAME_CELLS = 100
# Digits of a large figure that the answer's letters leave room for.
_LARGE = 5


def render(recommendation: Recommendation) -> str:
    """The whole page: one HTML document."""
    said = statements(recommendation)
    page = element(
        "html",
        _head(recommendation),
        element(
            "body",
            _top(recommendation),
            _title(recommendation),
            element(
                "main",
                _answer(recommendation, said),
                _measurements(recommendation),
                _trials(recommendation, said),
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
    model = shorten(clean(recommendation.workload.model), 40)
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
    when = None if environment is None else _date(environment.started_at)
    return element("header", element("span", element("b", "autobatch"), f" {version}"), when, class_="top")


def _date(started_at: str) -> Markup:
    """`1 March 2026, 12:00 UTC` of an ISO 8601 date; anything else as it is."""
    try:
        moment = datetime.fromisoformat(started_at)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        return element("bdi", shorten(clean(started_at), 40))
    zone = " UTC" if moment.tzinfo else ""
    text = f"{moment.day} {moment:%B} {moment.year}, {moment:%H:%M}{zone}"
    return element("time", text, datetime=moment.isoformat())


def _title(recommendation: Recommendation) -> Markup:
    device, workload = recommendation.device, recommendation.workload
    model = shorten(clean(workload.model), 48)
    facts = [
        *_device_facts(device),
        ("Model", join(_name(workload.model), f", {counted(workload.parameters, 'parameter')}")),
        *_workload_facts(workload),
    ]
    heading = join("Batch size for ", element("bdi", model)) if model else "Batch size"
    return element("div", element("h1", heading), _pairs(facts, "facts"), class_="head")


def _device_facts(device: Device) -> list[tuple[str, Markup]]:
    label = f" ({clean(device.label)})"
    threads = "" if device.threads is None else f", {counted(device.threads, 'thread')}"
    facts = [("Device", join(_name(device.name), element("bdi", label), threads))]
    if text := memory_text(device):
        facts.append(("Memory", join(text)))
    if device.limit_bytes is not None:
        source = f" ({clean(device.limit_source)})" if device.limit_source else ""
        facts.append(("Limit", join(format_bytes(device.limit_bytes), element("bdi", source))))
    return facts


def _workload_facts(workload: Workload) -> list[tuple[str, Markup]]:
    samples = None if workload.dataset_size is None else counted(workload.dataset_size, "sample")
    data = element("span", "random inputs") if workload.synthetic else _name(workload.dataset)
    data = join(data, ", " if data and samples else None, samples)
    facts = [("Data", data), ("Loss", _name(workload.loss)), ("Optimizer", _name(workload.optimizer))]
    facts.append(("Target", element("code", _path(workload.target)) if workload.target else Markup()))
    facts += [("Inferred", _name(guess)) for guess in workload.inferred]
    return [(label, value) for label, value in facts if value]


def _answer(recommendation: Recommendation, said: list[Statement]) -> Markup:
    """What to use in large, why, what it gains, and what speaks against it."""
    doubts = [element("li", one.text) for one in said if one.tone == "doubt"]
    texts = {one.label: one.text for one in said}
    box = element("div", element("h3", "Doubts"), element("ul", *doubts), class_="doubts") if doubts else None
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
        element("p", texts["why"], class_="why"),
        element("p", texts["gain"], class_="why") if "gain" in texts else None,
        box,
        class_="card hero",
        aria_labelledby="answer",
    )


def _figure(label: str, figure: str, remark: str, class_: str = "") -> Markup:
    quiet = "" if any(char.isdigit() for char in figure) else " quiet"
    # Larger ones get smaller letters, so that they stay on one line as long as that is possible.
    size = f"font-size: {_LARGE / len(figure) * 5:.2f}rem" if class_ and len(figure) > _LARGE else None
    return element(
        "div",
        element("dt", label),
        element("dd", figure, class_=f"figure{quiet}", style=size),
        element("dd", remark, class_="remark"),
        class_=class_ or None,
    )


def _ranks_text(recommendation: Recommendation) -> str:
    """What the batch size is of, where that isn't plain."""
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


def _chart(chart: charts.Chart) -> Markup:
    legend = [element("li", svg.sample(stroke), words) for stroke, words in chart.legend]
    return element(
        "figure",
        element(
            "figcaption", element("h3", chart.title), element("p", chart.caption) if chart.caption else None
        ),
        chart.picture,
        element("ul", *legend, class_="legend") if legend else None,
    )


def _trials(recommendation: Recommendation, said: list[Statement]) -> Markup:
    told = [(_LABELS[one.label], join(one.text)) for one in said if one.label in _LABELS and not one.tone]
    return _section(
        "trials",
        "Each size",
        tables.trials(recommendation),
        tables.contest(recommendation),
        tables.devices(recommendation),
        _pairs(told, "said"),
    )


def _use(recommendation: Recommendation) -> Markup:
    pieces = [
        element("div", element("h3", one.title), element("pre", element("code", one.code), tabindex=0))
        for one in snippets.made_for(recommendation)
    ]
    return _section("use", "Use it", element("div", *pieces, class_="snippets"))


def _environment(recommendation: Recommendation) -> Markup | None:
    environment, device = recommendation.environment, recommendation.device
    if environment is None:
        return None
    facts = [
        ("PyTorch", _name(environment.torch)),
        ("Python", _name(environment.python)),
        ("Platform", _name(environment.platform)),
        ("Processor", _name(environment.cpu)),
        ("Driver", _name(device.driver or "")),
        ("Took", join(format_duration(environment.elapsed_seconds))),
        *(("Note", _name(one)) for one in device.notes),
    ]
    return _section("where", "Environment", _pairs([one for one in facts if one[1]], "facts"))


def _raw(recommendation: Recommendation) -> Markup:
    """The result as `--json` prints it: what is in the element reads back as it was."""
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


def _pairs(facts: list[tuple[str, Markup]], class_: str) -> Markup:
    pairs = [(element("dt", label), element("dd", value)) for label, value in facts]
    if class_ == "said":
        return element("dl", *(part for pair in pairs for part in pair), class_=class_)
    return element("dl", *(element("div", *pair) for pair in pairs), class_=class_)


def _name(text: str) -> Markup:
    """A text of the user's or the device's: on one line, in a direction of its own."""
    text = shorten(clean(text), _NAME_CELLS)
    return element("bdi", text) if text else Markup()


def _path(text: str) -> Markup:
    """The same of a path, which may be broken after its dots and slashes."""
    parts = re.split(r"(?<=[./\\\\:])", shorten(clean(text), _NAME_CELLS))
    return element("bdi", parts[0], *(join(element("wbr"), part) for part in parts[1:]))


def _footer(environment: Environment | None) -> str:
    version = clean(environment.autobatch) if environment else __version__
    return (
        f"Measured by autobatch {version}. Throughput, memory and losses were measured; "
        "expected times are predicted from them."
    )

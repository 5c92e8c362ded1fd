"""The fragment that a notebook shows for an answer: in its colours, without a change to its styles."""

from __future__ import annotations

from autobatch.records.recommendation import Recommendation
from autobatch.reports.html import style, tables
from autobatch.reports.html.markup import Markup, element
from autobatch.reports.text.answer import statements


def render(recommendation: Recommendation) -> str:
    """Render the answer, its reason, its warnings, and the folded table of trials; readable unstyled."""
    shown = statements(recommendation)
    texts = {statement.label: statement.text for statement in shown}
    reasons = [element("p", said.text) for said in shown if said.label in ("why", "sure", "also")]
    warnings = [element("li", statement.text) for statement in shown if statement.tone == "doubt"]
    further = [element("p", texts[label]) for label in ("gain", "fits", "check") if label in texts]
    return element(
        "div",
        element("style", Markup(style.notebook())),
        element("p", texts["use"], class_="autobatch-use"),
        *reasons,
        element("ul", *warnings) if warnings else None,
        element(
            "details",
            element("summary", "What was measured"),
            tables.trials(recommendation),
            tables.trainings(recommendation),
            *further,
        ),
        class_="autobatch-answer",
    )

"""What a notebook shows of an answer: a fragment in its colours that changes none of its styles."""

from __future__ import annotations

from autobatch.records.recommendation import Recommendation
from autobatch.reports.html import style, tables
from autobatch.reports.html.markup import Markup, element
from autobatch.reports.text.answer import statements


def render(recommendation: Recommendation) -> str:
    """The answer with its reason and its doubts, and the table of trials, folded; readable without styles."""
    said = statements(recommendation)
    texts = {one.label: one.text for one in said}
    doubts = [element("li", one.text) for one in said if one.tone == "doubt"]
    further = [element("p", texts[label]) for label in ("gain", "fits", "check") if label in texts]
    return element(
        "div",
        element("style", Markup(style.NOTEBOOK)),
        element("p", texts["use"], class_="autobatch-use"),
        element("p", texts["why"]),
        element("ul", *doubts) if doubts else None,
        element(
            "details",
            element("summary", "What was measured"),
            tables.trials(recommendation),
            tables.contest(recommendation),
            *further,
        ),
        class_="autobatch-answer",
    )

"""The fragment that a notebook shows for an answer: in its colours, without a change to its styles."""

from __future__ import annotations

from autobatch.records.recommendation import Recommendation
from autobatch.reports.html import style, tables
from autobatch.reports.html.markup import Markup, element
from autobatch.reports.text import answer, details
from autobatch.reports.text.notices import notices


def render(recommendation: Recommendation) -> str:
    """Render the answer, its warnings, and the folded measurements; readable unstyled."""
    shown, further = notices(recommendation)
    current = answer.current_text(recommendation)
    fragment = element(
        "div",
        element("style", Markup(style.notebook())),
        element("p", answer.headline(recommendation), class_="autobatch-use"),
        element("p", current, class_="autobatch-soft") if current else None,
        *(element("p", text) for text in answer.facts(recommendation)),
        *(element("p", text) for text in answer.alternatives(recommendation)),
        _listed(shown),
        element(
            "details",
            element("summary", "All measurements"),
            tables.trials(recommendation),
            tables.trainings(recommendation),
            *(
                element("p", f"{statement.label}: {statement.text}")
                for statement in details.statements(recommendation)
            ),
            _listed(further),
        ),
        class_="autobatch-answer",
    )
    # As plain text, which escapes nothing that it is added to.
    return str(fragment)


def _listed(warnings: list[str]) -> Markup | None:
    return element("ul", *(element("li", text) for text in warnings)) if warnings else None

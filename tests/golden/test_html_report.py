"""The HTML report as files to review in a browser; `pytest --update-golden` rewrites them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from markupsafe import escape

from autobatch.reports.html import document, notebook
from autobatch.reports.text import answer, details
from autobatch.reports.text.notices import notices
from tests.golden.test_text_report import CASES

Golden = Callable[[str | Path, str], None]

# A decision with an alternative; a check with a veto; several ranks; names that attack; no check, failures.
SHOWN = ("same_epochs_change", "checked", "ranks", "hostile", "broken_rows")


@pytest.mark.parametrize("name", SHOWN)
def test_page(name: str, golden: Golden) -> None:
    golden(f"html/{name}.html", document.render(CASES[name]()).removesuffix("\n"))


def test_fragment_for_a_notebook(golden: Golden) -> None:
    golden("html/notebook.html", notebook.render(CASES["checked"]()))


@pytest.mark.parametrize("name", CASES)
def test_every_case_shows_what_the_text_report_says(name: str) -> None:
    """Each sentence of the answer and of the details is on the page too."""
    recommendation = CASES[name]()
    page = document.render(recommendation)
    shown, further = notices(recommendation)
    sentences = [*answer.facts(recommendation), *answer.alternatives(recommendation), *shown, *further]
    sentences += [
        statement.text for statement in details.statements(recommendation) if statement.label != "versions"
    ]
    for sentence in sentences:
        assert str(escape(sentence)) in page
    assert f">{recommendation.batch_size:,}<" in page

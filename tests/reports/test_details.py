"""The facts behind an answer: each once, and none that the answer has said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.records.check import Check, CheckStatus
from autobatch.records.recommendation import AnswerLimit
from autobatch.reports.text import details
from tests import builders
from tests.golden.test_text_report import CASES


def texts(name: str) -> dict[str, str]:
    return {statement.label: statement.text for statement in details.statements(CASES[name]())}


@pytest.mark.parametrize("name", CASES)
def test_no_fact_of_the_details_is_empty(name: str) -> None:
    assert all(text for text in texts(name).values())
    assert texts(name)["fits"]


def test_a_larger_size_that_ends_worse_is_the_reason_of_a_change() -> None:
    assert texts("same_epochs_change")["why"] == details.limit_text(CASES["same_epochs_change"]())
    assert "higher loss" in texts("same_epochs_change")["why"]
    # The reason to keep says that by itself.
    assert "why" not in texts("same_epochs_keep")


def test_a_worst_case_close_to_the_best_is_not_worth_a_word() -> None:
    answer = builders.recommendation(8, why="it fits", regret_bound=1.43)
    assert details.statements(answer)[0].text == "worst case (90% CI): 43% slower than the true best"
    assert details.statements(replace(answer, regret_bound=1.01))[0].label == "fits"


@pytest.mark.parametrize("limit", AnswerLimit)
def test_every_limit_has_its_words(limit: AnswerLimit) -> None:
    assert details.limit_text(builders.recommendation(8, limited_by=limit))


@pytest.mark.parametrize(
    ("check", "start"),
    [
        (None, "not run; the choice"),
        (Check(status=CheckStatus.NOT_RUN, detail="no time"), "not run: no time; the choice"),
        (builders.check(100.0), "critical batch size 100 (90% CI 44 to 228), from the gradient noise alone"),
    ],
)
def test_the_check_says_how_far_it_went(check: Check | None, start: str) -> None:
    statements = details.statements(builders.recommendation(8, check=check))
    (text,) = (statement.text for statement in statements if statement.label == "check")
    assert text.startswith(start)

"""Two results beside each other, as people see them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from autobatch.decision.comparison import compare_results
from autobatch.records.comparison import ResultComparison
from autobatch.records.recommendation import Recommendation
from autobatch.reports.text import comparison
from tests.golden.test_text_report import CASES, LONG_NAME
from tests.strategies import recommendations

Golden = Callable[[str | Path, str], None]

PAIRS: dict[str, tuple[str, str]] = {
    "comparison_of_decisions": ("same_epochs_keep", "same_epochs_change"),
    "comparison_of_devices": ("cpu_limit", "gpu"),
    "comparison_of_the_same": ("checked", "checked"),
}


def compared(name: str) -> ResultComparison:
    before, after = PAIRS[name]
    return compare_results(CASES[before](), CASES[after]())


@pytest.mark.parametrize("name", PAIRS)
def test_comparison(name: str, golden: Golden) -> None:
    golden(f"text/{name}.txt", comparison.render(compared(name)))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", PAIRS)
def test_a_comparison_keeps_to_its_width(name: str, width: int) -> None:
    answer = CASES[PAIRS[name][1]]()
    longer = replace(answer, device=replace(answer.device, name=LONG_NAME))
    shown = comparison.render(compare_results(CASES[PAIRS[name][0]](), longer), width=width)
    assert max(map(cell_len, shown.split("\n"))) <= width
    assert LONG_NAME in " ".join(shown.split())


@settings(max_examples=30, deadline=None)
@given(recommendations(texts=st.text(st.characters(), max_size=60)), recommendations())
def test_any_comparison_steers_no_terminal(before: Recommendation, after: Recommendation) -> None:
    for line in comparison.render(compare_results(before, after)).split("\n"):
        assert not {unicodedata.category(char) for char in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}

"""The table of sizes: its columns at any width."""

from __future__ import annotations

import pytest

from autobatch.records.recommendation import Recommendation
from autobatch.reports.text import table
from autobatch.reports.text.lines import paint
from tests import builders
from tests.golden.test_text_report import CASES

SIZES = [2**power for power in range(12)]


def answer(batch_size: int, current: int | None = None) -> Recommendation:
    return builders.recommendation(
        batch_size,
        trials=tuple(builders.trial(size) for size in SIZES),
        workload=builders.workload(batch_size=current, dataset_size=4096),
    )


@pytest.mark.parametrize(
    ("width", "verbose", "titles"),
    [
        (80, False, "batch samples/s ± step (ms) memory"),
        (80, True, "batch samples/s ± step (ms) memory epoch util"),
        (120, True, "batch samples/s ± step (ms) memory steps/epoch epoch util"),
        (60, False, "batch samples/s ± step (ms) memory"),
        (40, False, "batch samples/s"),
    ],
)
def test_columns_by_width(width: int, verbose: bool, titles: str) -> None:
    plan = table.layout(answer(64).workload, width, verbose=verbose)
    shown = paint([table.titles(plan)], colour=False)
    assert " ".join(shown.split()) == titles
    assert len(shown) + len("  recommended") <= width


def test_no_epochs_without_the_size_of_the_data_set() -> None:
    plan = table.layout(builders.workload(), 120, verbose=True)
    assert not any("epoch" in name for name in plan.columns)


def test_the_answer_has_its_mark_and_a_relative_time_of_one() -> None:
    shown = paint(table.lines_around_answer(CASES["same_epochs_change"](), 80), colour=False).split("\n")
    assert shown[0].endswith("relative time")
    (line,) = (line for line in shown if "recommended" in line)
    assert line.split()[0] == "64"
    assert line.endswith("1.00   recommended")
    (current,) = (line for line in shown if line.endswith("current"))
    assert float(current.split()[-2]) > 1


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1"), (1024, "1,024"), (262_144, "262,144"), (10**7, "1.0e+7")]
)
def test_sizes_fit_their_column(size: int, text: str) -> None:
    assert table.size_text(size) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [(1.0, "1.00"), (99.99, "99.99"), (250.4, "250"), (1e9, ">9999"), (None, "-"), (float("nan"), "-")],
)
def test_relative_times_fit_their_column(time: float | None, text: str) -> None:
    assert table.time_text(time) == text
    assert len(text) <= 5

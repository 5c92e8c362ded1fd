"""The charts of the short trainings: over seconds, and over epochs."""

from __future__ import annotations

import re
from dataclasses import replace

from autobatch.reports.html import loss_charts
from tests.golden.test_text_report import CASES


def test_every_evaluation_is_a_point_of_its_training() -> None:
    answer = CASES["same_epochs_change"]()
    assert answer.check is not None
    evaluations = sum(len(training.evaluations) for training in answer.check.trainings)
    for chart in (loss_charts.over_seconds(answer), loss_charts.over_epochs(answer)):
        assert chart is not None
        assert len(re.findall(r'class="point s\d"', chart.picture)) == evaluations
        assert [words for _, words in chart.legend] == [
            "32, learning rate ×1",
            "64, learning rate ×1.4",
            "128, learning rate ×1.9",
        ]
        assert [stroke for stroke, _ in chart.legend] == ["line s1", "line s0 own", "line s2"]


def test_a_training_that_failed_ends_with_a_cross() -> None:
    chart = loss_charts.over_seconds(CASES["checked"]())
    assert chart is not None
    assert len(re.findall(r'class="cross"', chart.picture)) == 1
    assert "the same loss: 2.4" in chart.picture


def test_without_the_size_of_the_data_set_it_is_over_samples() -> None:
    answer = CASES["checked"]()
    unknown = replace(answer, workload=replace(answer.workload, dataset_size=None))
    chart = loss_charts.over_epochs(unknown)
    assert chart is not None
    assert chart.title == "Loss over samples"
    known = loss_charts.over_epochs(answer)
    assert known is not None
    assert known.title == "Loss over epochs"


def test_without_a_training_there_is_no_chart() -> None:
    assert loss_charts.over_seconds(CASES["ranks"]()) is None
    assert loss_charts.over_epochs(CASES["gpu"]()) is None

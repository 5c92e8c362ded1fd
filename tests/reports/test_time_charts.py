"""The charts of the decision: time over the batch size, and the speedup."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from autobatch.reports.html import svg, time_charts
from tests.golden.test_text_report import CASES


def test_sizes_that_end_at_a_higher_loss_are_rings() -> None:
    chart = time_charts.time_over_size(CASES["same_epochs_change"]())
    assert chart is not None
    assert chart.title == "Time for your 20 epochs"
    assert len(re.findall(r'class="dot hollow"', chart.picture)) == 3
    assert "Rings: sizes that end at a higher loss." in chart.caption
    assert chart.wide is not None
    assert f'viewBox="0 0 {svg.FULL_WIDTH} ' in chart.wide


def test_a_vetoed_size_is_a_cross() -> None:
    chart = time_charts.time_over_size(CASES["checked"]())
    assert chart is not None
    assert chart.title == "Time to the same loss"
    assert len(re.findall(r'class="cross"', chart.picture)) == 1
    assert "batch size 256 is vetoed: loss 2.91 against 2.42" in chart.picture


@pytest.mark.parametrize("name", ["gpu", "one_size", "stopped"])
def test_without_times_there_is_no_chart(name: str) -> None:
    assert time_charts.time_over_size(CASES[name]()) is None
    assert time_charts.speedup(CASES[name]()) is None


def test_the_speedup_is_drawn_against_one_for_a_change_only() -> None:
    picture = time_charts.speedup(CASES["same_epochs_change"]())
    assert picture is not None
    assert "Speedup 1.29x, 90% interval 1.25 to 1.33." in picture
    assert ">1x: current<" in picture
    assert time_charts.speedup(CASES["same_epochs_keep"]()) is None


def test_names_of_neighbours_do_not_overlap() -> None:
    answer = CASES["same_epochs_change"]()
    crowded = replace(answer, workload=replace(answer.workload, batch_size=128))
    chart = time_charts.time_over_size(crowded)
    assert chart is not None
    heights = re.findall(r'y="(\d+)" class="(?:use|now)"', chart.picture)
    assert len(set(heights)) == 2

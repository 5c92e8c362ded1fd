"""Relative times and their intervals, of a decision and of the time to the same loss."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.reports.relative_times import relative_intervals, relative_times, times_to_draw
from tests.golden.test_text_report import CASES


def test_a_decision_compares_trainings_of_the_same_epochs() -> None:
    answer = CASES["same_epochs_change"]()
    times, intervals = relative_times(answer), relative_intervals(answer)
    assert times[answer.batch_size] == 1
    for row in answer.same_epochs:
        low, high = intervals[row.batch_size]
        assert low <= times[row.batch_size] <= high
    speedups = {row.batch_size: row.speedup for row in answer.same_epochs}
    assert times[32] == pytest.approx(speedups[64] / speedups[32])


def test_the_time_to_a_loss_varies_with_the_critical_batch_size() -> None:
    answer = CASES["checked"]()
    times, intervals = relative_times(answer), relative_intervals(answer)
    assert times == {row.batch_size: row.relative_time for row in answer.candidates}
    assert intervals[answer.batch_size] == (1.0, 1.0)
    widths = [intervals[size][1] / intervals[size][0] for size in sorted(times)]
    assert widths == sorted(widths)


def test_an_open_interval_is_not_drawn() -> None:
    answer = CASES["checked"]()
    assert answer.check is not None
    assert relative_intervals(replace(answer, check=replace(answer.check, interval=(66.0, None)))) == {}


@pytest.mark.parametrize("name", ["gpu", "stopped"])
def test_without_a_check_or_an_answer_nothing_is_known(name: str) -> None:
    assert relative_times(CASES[name]()) == relative_intervals(CASES[name]()) == {}


def test_a_chart_leaves_out_slow_sizes_but_never_the_current_one() -> None:
    answer = CASES["same_epochs_change"]()
    assert min(times_to_draw(answer)) == 8
    slow = replace(answer, workload=replace(answer.workload, batch_size=1))
    assert list(times_to_draw(slow))[:2] == [1, 8]

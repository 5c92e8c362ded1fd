"""The charts of the trials: a mark for each size, and axes that no odd figure can press flat."""

from __future__ import annotations

import re
from dataclasses import replace

from autobatch.records.recommendation import Recommendation
from autobatch.reports.html import size_charts
from tests.golden.test_text_report import CPU_ANSWER, GIB, GPU_ANSWER


def marks(picture: str, kind: str) -> int:
    """The number of marks of a class."""
    return len(re.findall(rf'class="{kind}[ "]', picture))


def test_each_size_has_its_dot_and_each_failure_its_cross() -> None:
    chart = size_charts.throughput(GPU_ANSWER)
    assert chart is not None
    assert (marks(chart.picture, "dot"), marks(chart.picture, "chosen")) == (3, 1)
    assert (marks(chart.picture, "cross"), marks(chart.picture, "interval")) == (1, 4)
    assert "Crosses" in chart.caption
    assert "recommended: batch size 128: 1,008 samples/s ± &lt;1%" in chart.picture


def test_the_current_size_is_named() -> None:
    answer = replace(GPU_ANSWER, workload=replace(GPU_ANSWER.workload, batch_size=64))
    for draw in (size_charts.throughput, size_charts.memory):
        chart = draw(answer)
        assert chart is not None
        assert marks(chart.picture, "current") == 1
        assert ">current 64<" in chart.picture
        assert ">recommended 128<" in chart.picture


def test_the_ideal_line_starts_at_the_smallest_size_and_ends_where_the_chart_ends() -> None:
    chart = size_charts.throughput(GPU_ANSWER)
    assert chart is not None
    (ideal,) = re.findall(r'points="([^"]+)" class="ideal"', chart.picture)
    (measured,) = re.findall(r'points="([^"]+)" class="line"', chart.picture)
    assert ideal.split()[0] == measured.split()[0]
    places = [float(place.split(",")[1]) for place in ideal.split()]
    assert places == sorted(places, reverse=True)


def test_memory_has_its_line_of_best_fit_for_three_sizes_or_more() -> None:
    chart = size_charts.memory(GPU_ANSWER)
    assert chart is not None
    assert marks(chart.picture, "ideal") == 1
    few = size_charts.memory(replace(GPU_ANSWER, batch_size=64, trials=GPU_ANSWER.trials[:2]))
    assert few is not None
    assert marks(few.picture, "ideal") == 0


def heights(answer: Recommendation) -> list[str]:
    chart = size_charts.throughput(answer)
    assert chart is not None
    return re.findall(r'cy="([\d.]+)"', chart.picture)


def test_one_wide_interval_leaves_the_axis_as_it_is() -> None:
    trials = list(GPU_ANSWER.trials)
    trials[0] = replace(trials[0], samples_per_second_interval=(0.0, 1e9))
    assert heights(replace(GPU_ANSWER, trials=tuple(trials))) == heights(GPU_ANSWER)


def test_a_limit_far_above_is_said_in_words() -> None:
    near = size_charts.memory(GPU_ANSWER)
    assert near is not None
    assert "free 78.4 GiB" in near.picture
    assert "far above" not in near.picture
    roomy = replace(CPU_ANSWER, device=replace(CPU_ANSWER.device, limit_bytes=100 * GIB))
    chart = size_charts.memory(roomy)
    assert chart is not None
    assert "↑ limit 100 GiB, far above" in chart.picture


def test_without_figures_there_is_no_chart() -> None:
    bare = tuple(replace(trial, peak_bytes=None, samples_per_second=None) for trial in GPU_ANSWER.trials)
    answer = replace(GPU_ANSWER, trials=bare)
    assert size_charts.memory(answer) is None
    assert size_charts.throughput(answer) is None

"""The plot of an answer, by matplotlib where it is installed."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from autobatch.records.errors import AutobatchError
from tests.golden.test_text_report import CASES


@pytest.fixture
def axes() -> Any:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is missing (`pip install matplotlib`)")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure().subplots()


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """The points of each named line."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_a_decision_has_its_relative_times(axes: Any) -> None:
    answer = CASES["same_epochs_change"]()
    assert answer.plot(axes) is axes
    assert axes.get_ylabel() == "relative time"
    named = lines(axes)
    assert named["recommended: 64"] == ([64], [1.0])
    (size,), (time,) = named["current: 32"]
    assert (size, time > 1) == (32, True)
    (curve,) = axes.containers
    # Smaller sizes take more than four times as long as the fastest.
    assert list(curve.lines[0].get_xdata()) == [8, 16, 32, 64, 128, 256, 512]


def test_without_a_check_it_is_the_throughput(axes: Any) -> None:
    CASES["gpu"]().plot(axes)
    assert axes.get_ylabel() == "samples per second"
    assert lines(axes) == {"recommended: 128": ([128], [1008])}


def test_new_axes_are_made_where_none_are_given(axes: Any) -> None:
    made = CASES["gpu"]().plot()
    assert made is not axes
    assert made.get_xlabel() == "batch size"


def test_the_error_says_how_to_get_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(AutobatchError) as raised:
        CASES["gpu"]().plot()
    assert raised.value.code == "no_matplotlib"
    assert "pip install matplotlib" in raised.value.hint

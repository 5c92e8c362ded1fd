"""Axes: ticks at round numbers, of any range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.reports.html import axes


@given(st.floats(1e-12, 1e14))
def test_an_amount_has_from_four_to_seven_ticks_within_its_axis(top: float) -> None:
    axis = axes.amount_axis(top, "", str)
    assert 4 <= len(axis.ticks) <= 7
    assert axis.low == axis.ticks[0][0] == 0
    assert axis.ticks[-1][0] <= axis.high
    assert top < axis.high


@pytest.mark.parametrize(
    ("top", "base", "ticks"),
    [
        (10_115, 10, [0, 2000, 4000, 6000, 8000, 10_000]),
        (600 * 2**20, 1024, [0, 250 * 2**20, 500 * 2**20]),
    ],
)
def test_ticks_are_round(top: float, base: int, ticks: list[float]) -> None:
    assert [value for value, _ in axes.amount_axis(top, "", str, base=base).ticks] == ticks


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_a_range_holds_its_values(values: list[float]) -> None:
    axis = axes.range_axis(values, "", str)
    assert axis.low < min(values) <= max(values) < axis.high
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert len(axis.ticks) <= 8


@pytest.mark.parametrize(("length", "ticks"), [(324, 6), (784, 11)])
def test_a_longer_axis_has_more_doublings(length: float, ticks: int) -> None:
    sizes = [float(2**power) for power in range(11)]
    assert len(axes.doubling_axis(sizes, "", length).ticks) == ticks

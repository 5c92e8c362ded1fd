"""Statistics of step times: intervals that cover, decisions that wait for evidence."""

from __future__ import annotations

import random
from math import log
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.constants import TOLERANCE
from autobatch.decision.round_statistics import gain, is_flat, median_interval, throughput

SECONDS = st.floats(1e-6, 1e3)


@given(st.lists(SECONDS, min_size=2, max_size=12))
def test_the_interval_holds_the_median(values: list[float]) -> None:
    found = median_interval(values)
    assert found is not None
    low, high = found
    assert low * (1 - 1e-9) <= median(values) or len(values) % 2 == 0
    assert low <= high


def test_one_round_has_no_interval() -> None:
    assert median_interval([1.0]) is None
    assert throughput(8, [0.5]) == (16.0, None)


def test_a_nominal_90_percent_interval_covers() -> None:
    source = random.Random(0)
    hits = 0
    for _ in range(1000):
        low, high = median_interval([source.lognormvariate(0, 0.1) for _ in range(7)]) or (0.0, 0.0)
        hits += low <= 1.0 <= high
    assert 860 <= hits <= 970


@pytest.mark.parametrize(("ratio", "flat"), [(1.0, True), (1.04, True), (1.06, False), (2.0, False)])
def test_clear_ratios_are_decided_after_three_rounds(ratio: float, flat: bool) -> None:
    found = gain(64, [log(ratio)] * 3)
    assert found.decided
    assert is_flat(found) is flat
    assert found.low <= found.ratio <= found.high


def test_two_rounds_decide_nothing() -> None:
    assert not gain(64, [log(2.0)] * 2).decided


def test_noise_around_the_threshold_stays_undecided() -> None:
    assert not gain(64, [log(1 + TOLERANCE) + noise for noise in (-0.3, 0.02, 0.3)]).decided


def test_a_size_that_was_not_compared_is_not_flat() -> None:
    assert not is_flat(None)

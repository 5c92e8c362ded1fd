"""The value of a round: none far from a tie, less after each round, and as much as a simulation shows."""

from __future__ import annotations

import random
from math import exp, log, sqrt
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.constants import MAX_REPEATS, RESOLUTION, TOLERANCE
from autobatch.decision.value_of_measurement import (
    expected_saving,
    horizon_seconds,
    pair_saving,
    round_error,
    window_saving,
)


@pytest.mark.parametrize(("difference", "error", "rounds"), [(0.0, 0.1, 1), (0.03, 0.05, 3), (-0.1, 0.1, 2)])
def test_the_saving_is_that_of_simulated_choices(difference: float, error: float, rounds: int) -> None:
    """With one more round the better size by then is taken; without it, the better size by now."""
    rng = random.Random(0)
    noise = error * sqrt(rounds)
    gains = []
    for _ in range(200_000):
        truth = rng.gauss(difference, error)
        measured = rng.gauss(truth, noise)
        mean = (rounds * difference + measured) / (rounds + 1)
        gains.append((truth if mean > 0 else 0.0) - (truth if difference > 0 else 0.0))
    assert expected_saving(difference, error, rounds) == pytest.approx(fmean(gains), abs=5e-4)


@given(st.floats(-1, 1), st.floats(1e-3, 1), st.integers(1, MAX_REPEATS), st.floats(1, 5, exclude_min=True))
def test_certainty_and_distance_make_a_round_worth_less(
    difference: float, error: float, rounds: int, factor: float
) -> None:
    saving = expected_saving(difference, error, rounds)
    assert saving >= 0
    rounding = 1e-12
    assert expected_saving(difference, error, rounds + 1) <= saving + rounding
    assert expected_saving(factor * difference, error, rounds) <= saving + rounding
    assert expected_saving(difference, factor * error, rounds) >= saving - rounding


def test_where_nothing_is_uncertain_no_round_saves_anything() -> None:
    assert expected_saving(0.1, 0.0, 3) == 0.0


def test_a_short_training_counts_as_ten_budgets() -> None:
    assert horizon_seconds(60.0, None) == horizon_seconds(60.0, 5.0) == pytest.approx(600.0)
    assert horizon_seconds(60.0, 3600.0) == 3600.0


def test_the_error_of_a_round_is_pooled_over_sizes_and_never_below_the_drift_for_few_rounds() -> None:
    assert round_error([]) == pytest.approx(RESOLUTION)
    assert round_error([(1.0,), (2.0,)]) == pytest.approx(RESOLUTION)
    rng = random.Random(1)
    noisy = [[size * exp(rng.gauss(0, 0.3)) for _ in range(8)] for size in range(1, 40)]
    assert round_error(noisy) == pytest.approx(0.3, rel=0.1)


def test_a_pair_pays_near_the_threshold_only() -> None:
    threshold = log(1 + TOLERANCE)
    assert pair_saving([threshold], 0.02) > 50 * pair_saving([threshold + 0.1], 0.02)
    assert pair_saving([threshold], 0.02) > pair_saving([threshold] * 3, 0.02)


def test_a_window_pays_where_a_size_may_be_faster_than_the_current_size_or_the_fastest() -> None:
    far = {8: (0.01,) * 3, 16: (0.01,) * 3, 32: (0.01,) * 3}
    assert window_saving(far, 8, RESOLUTION) < 1e-9
    tied = far | {64: (0.02,) * 3}
    assert window_saving(tied, 8, RESOLUTION) > 1e-3
    near_current = far | {4: (0.01 / 2 * 1.05,) * 3}
    assert window_saving(near_current, 4, RESOLUTION) > 1e-3
    assert window_saving(near_current, None, RESOLUTION) < 1e-9
    assert window_saving({8: (0.01,) * 3}, 8, RESOLUTION) == 0.0


def test_rounds_that_agree_by_chance_on_a_noisy_machine_are_not_believed() -> None:
    times = {8: (0.01,) * 3, 16: (0.017,) * 3}
    assert window_saving(times, 8, 0.3) > 1000 * window_saving(times, 8, RESOLUTION)


def test_a_size_that_looks_faster_and_is_not_surely_faster_may_bring_all_of_its_gain() -> None:
    noisy = {8: (0.01, 0.01, 0.01), 16: (0.01, 0.01, 0.02)}
    assert window_saving(noisy, 8, RESOLUTION) == pytest.approx(log(2))
    assert window_saving(noisy, None, RESOLUTION) < log(2) / 10

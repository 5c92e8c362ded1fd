"""The model of step times over batch size: robust, smooth where it holds, true to the curve elsewhere."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.step_time import fit_step_time

SIZES = tuple(2**i for i in range(13))


hardware = st.floats(0.5, 4096.0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(a=st.floats(1e-6, 1.0), hardware_batch_size=hardware, count=st.integers(2, 13))
def test_an_exact_law_is_recovered(a: float, hardware_batch_size: float, count: int) -> None:
    sizes = SIZES[:count]
    b = a / hardware_batch_size
    found = fit_step_time(sizes, [(a + b * size,) for size in sizes])
    assert found.relative_error < 1e-6
    for size in sizes:
        assert found.step_seconds_at(size) == pytest.approx(a + b * size, rel=1e-6)


def test_one_size_far_off_hardly_moves_the_law() -> None:
    sizes = SIZES[3:11]
    times = [1e-3 * (1 + size / 64) for size in sizes]
    for odd in range(len(sizes)):
        bent = [time * (1.45 if i == odd else 1) for i, time in enumerate(times)]
        found = fit_step_time(sizes, [(time,) for time in bent])
        assert found.hardware_batch_size == pytest.approx(64, rel=0.15)
        assert found.relative_error > 0.1


def test_noise_is_smoothed_and_a_true_step_in_the_curve_is_kept() -> None:
    draw = random.Random(1)
    sizes = SIZES[3:11]

    def measured(size: int, step: float) -> list[float]:
        true = 1e-3 * (1 + size / 64) * (step if size >= 256 else 1)
        return [true * math.exp(draw.gauss(0, 0.1)) for _ in range(5)]

    noisy = [fit_step_time(sizes, [measured(size, 1.0) for size in sizes]) for _ in range(50)]
    by_law = sum(abs(math.log(one.step_seconds_at(64) / 2e-3)) for one in noisy) / len(noisy)
    by_curve = sum(abs(math.log(one.step_seconds[3] / 2e-3)) for one in noisy) / len(noisy)
    assert by_law < 0.75 * by_curve
    cliff = fit_step_time(sizes, [measured(size, 1.6) for size in sizes])
    ratio = cliff.step_seconds_at(256) / cliff.step_seconds_at(128)
    assert ratio == pytest.approx(1.6 * 5 / 3, rel=0.15)


def test_the_measured_curve_wins_where_no_law_fits() -> None:
    times = {8: 1.0, 16: 1.1, 32: 1.3, 64: 5.0, 128: 5.2, 256: 30.0}
    found = fit_step_time(tuple(times), [(time,) for time in times.values()])
    for size, time in times.items():
        assert found.step_seconds_at(size) == pytest.approx(time, rel=0.05)
    assert 5.2 < found.step_seconds_at(181) < 30
    assert found.step_seconds_at(512) > 30


@settings(max_examples=100, deadline=None, derandomize=True)
@given(times=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=10))
def test_any_curve_gives_a_law_that_can_be_used(times: list[float]) -> None:
    found = fit_step_time(SIZES[: len(times)], [(time,) for time in times])
    assert found.a_seconds >= 0
    assert found.b_seconds_per_sample >= 0
    assert found.a_seconds + found.b_seconds_per_sample > 0
    assert all(0 < found.step_seconds_at(size) < math.inf for size in (1, 3, 4096, 10**6))


def test_the_order_of_the_sizes_does_not_matter() -> None:
    assert fit_step_time((8, 32, 16), [(1.0,), (3.0,), (2.0,)]) == fit_step_time(
        (8, 16, 32), [(1.0,), (2.0,), (3.0,)]
    )


@pytest.mark.parametrize("times", [[(1.0,), ()], [(1.0,)], [(1.0,), (0.0,)], [(1.0,), (math.nan,)]])
def test_times_that_can_not_be_are_refused(times: list[tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="step time"):
        fit_step_time((8, 16), times)

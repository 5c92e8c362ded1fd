"""Quantiles against published tables, and errors against simulation."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import median, stdev

import pytest

from autobatch.decision.quantiles import Z_TWO_SIDED, error_of_median, exclude, student_t

# Two-sided 90%, as printed in tables of the distribution.
TABLE = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 10: 1.812, 15: 1.753, 30: 1.697, 120: 1.658}


@pytest.mark.parametrize("degrees", TABLE)
def test_students_t_agrees_with_the_table(degrees: int) -> None:
    assert student_t(degrees) == pytest.approx(TABLE[degrees], abs=6e-4)


def test_students_t_falls_to_the_normal_quantile() -> None:
    quantiles = [student_t(degrees) for degrees in range(1, 60)]
    assert all(after < before for before, after in pairwise(quantiles))
    assert Z_TWO_SIDED < student_t(2000) < 1.001 * Z_TWO_SIDED


def test_the_error_of_a_median_is_its_scatter() -> None:
    draws = random.Random(0)
    samples = [[draws.gauss(0, 1) for _ in range(25)] for _ in range(2000)]
    scatter = stdev(median(sample) for sample in samples)
    assert sum(map(error_of_median, samples)) / len(samples) == pytest.approx(scatter, rel=0.05)


def test_equal_values_have_no_error() -> None:
    assert error_of_median([0.1] * 5) == 0.0


@pytest.mark.parametrize(
    ("below", "above", "excluded"),
    [(0, 0, False), (4, 0, False), (0, 4, False), (5, 0, True), (0, 5, True), (1, 6, False), (1, 7, True)],
)
def test_a_centre_is_excluded_by_the_sign_test_alone(below: int, above: int, excluded: bool) -> None:
    values = [1.0 - 1e-9 * k for k in range(1, below + 1)] + [1.0 + 100.0 * k for k in range(1, above + 1)]
    assert exclude([*values, 1.0], 1.0) == excluded


def test_a_true_median_is_excluded_in_a_tenth_of_all_cases_at_most() -> None:
    draws = random.Random(0)
    for count in range(3, 9):
        excluded = sum(exclude([draws.lognormvariate(0, 2) for _ in range(count)], 1.0) for _ in range(2000))
        assert excluded <= 0.11 * 2000

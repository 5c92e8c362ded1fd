"""The same global batch, divided anew: only divisors, only surely faster, and the current one else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.global_batch import divide
from autobatch.decision.trial_set import TrialSet
from autobatch.records.recommendation import Action
from tests import builders

SIZES = tuple(2**k for k in range(9))


def trials(hardware_batch_size: float = 256.0, sizes: Sequence[int] = SIZES) -> TrialSet:
    return TrialSet(tuple(builders.affine_trials(hardware_batch_size, sizes)))


def test_the_fastest_divisor_is_a_change_of_time_alone() -> None:
    judgement = divide(trials(), 64, 8)
    assert judgement is not None
    assert judgement.decision.action is Action.CHANGE
    assert judgement.decision.batch_size == 64
    assert {row.batch_size for row in judgement.rows} == {1, 2, 4, 8, 16, 32, 64}
    assert {row.harm for row in judgement.rows} == {1.0}
    (row,) = (row for row in judgement.rows if row.batch_size == 64)
    assert row.speedup == pytest.approx(8 * (1 + 8 / 256) / (1 + 64 / 256))


def test_the_current_division_is_kept_where_none_is_surely_faster() -> None:
    judgement = divide(trials(hardware_batch_size=0.01), 64, 8)
    assert judgement is not None
    assert judgement.decision.action is Action.KEEP
    assert judgement.decision.batch_size == 8


def test_no_smaller_batch_than_asked_for_is_chosen() -> None:
    """Throughput falls with the size, so that a smaller one would be faster."""
    falling = TrialSet(tuple(builders.trial(size, 1e-5 * size**1.5, rounds=5) for size in SIZES))
    free, bounded = divide(falling, 64, 32), divide(falling, 64, 32, least=32)
    assert free is not None
    assert bounded is not None
    assert free.decision.batch_size < 32
    assert bounded.decision.batch_size == 32


@pytest.mark.parametrize("current", [None, 12, 512])
def test_without_the_current_division_nothing_is_compared(current: int | None) -> None:
    assert divide(trials(), 96, current) is None


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 1e4), st.integers(1, 512), st.sampled_from(SIZES))
def test_the_answer_divides_the_global_batch(hardware: float, multiple: int, current: int) -> None:
    target = current * multiple
    judgement = divide(trials(hardware), target, current)
    assert judgement is not None
    assert target % judgement.decision.batch_size == 0
    assert all(target % row.batch_size == 0 for row in judgement.rows)

"""The same global batch, divided anew: only divisors, only surely faster, and the current one else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision import global_batch
from autobatch.decision.global_batch import divide
from autobatch.decision.trial_set import TrialSet
from autobatch.records.recommendation import Action
from autobatch.records.workload import Workload
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


def test_a_global_batch_takes_the_largest_of_the_fast_divisors() -> None:
    measured, unknown = trials(1), builders.workload()
    assert global_batch.for_global_batch(measured, 96, 1, unknown).trial.batch_size == 32
    at_once = global_batch.for_global_batch(measured, 64, 2, unknown)
    assert at_once.trial.batch_size == 64
    assert at_once.why == "the global batch size 128 fits at once"


def accumulating(**fields: Any) -> Workload:
    """Four batches of 8 an optimizer step."""
    return builders.workload(**{"batch_size": 32, "accumulation_steps": 4} | fields)


def test_a_global_batch_is_divided_anew_at_the_highest_throughput() -> None:
    choice = global_batch.for_global_batch(trials(256), 32, 1, accumulating())
    assert choice.trial.batch_size == 32
    assert choice.why == (
        "3.67x as fast as batches of 8 (90% CI 3.55 to 3.79); "
        "the global batch size 32 and the learning rate stay"
    )
    assert choice.warnings == ()
    kept = global_batch.for_global_batch(trials(0.01), 32, 1, accumulating())
    assert kept.trial.batch_size == 8
    assert kept.why == "the global batch size 32 stays; no other division is surely faster"


def test_layers_that_normalize_over_the_batch_get_no_smaller_one_and_a_warning() -> None:
    """ultralytics/yolov5 1630: is accumulation the same as a larger batch?"""
    falling = TrialSet(tuple(builders.trial(size, 1e-5 * size**1.5, rounds=5) for size in SIZES))
    normalizing = accumulating(batch_statistics="BatchNorm2d")
    assert global_batch.for_global_batch(falling, 32, 1, accumulating()).trial.batch_size < 8
    assert global_batch.for_global_batch(falling, 32, 1, normalizing).trial.batch_size == 8
    (warning,) = global_batch.for_global_batch(trials(256), 32, 1, normalizing).warnings
    assert warning == "BatchNorm2d normalizes over 32 samples in place of 8: compare the validation loss"


@pytest.mark.parametrize(
    ("described", "kept"),
    [
        (accumulating(), True),
        (builders.workload(batch_size=8, counted_in_steps=True), True),
        (builders.workload(batch_size=8), False),
        (builders.workload(batch_size=12, counted_in_steps=True), False),
    ],
)
def test_a_size_that_is_applied_alone_keeps_the_samples_of_the_training(
    described: Workload, kept: bool
) -> None:
    choice = global_batch.kept_alone(trials(256), described)
    assert (choice is not None and choice.trial.batch_size == 8) == kept

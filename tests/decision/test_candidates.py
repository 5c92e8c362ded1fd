"""The table of candidates: times in units of the answer's, short trainings, and accumulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision import critical_batch
from autobatch.decision.candidates import candidates
from autobatch.decision.time_to_loss import belief_of
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, CheckStatus, Training
from autobatch.records.recommendation import Candidate
from autobatch.records.trial import LimitedBy
from tests.builders import affine_trials, ceiling, check, failed_training, loss_by_law, training

SIZES = tuple(2**k for k in range(11))

criticals = st.floats(1.0, 1e5)
hardware = st.floats(0.5, 4096.0)
spreads = st.floats(0.01, 1.5)


def affine(hardware_batch_size: float, sizes: Sequence[int] = SIZES) -> TrialSet:
    return TrialSet(tuple(affine_trials(hardware_batch_size, sizes)))


def trained(size: int, factor: float = 1.0, steps: int = 300) -> Training:
    loss = loss_by_law(size, 100.0)
    return training(size, steps, lambda at: (loss(at),) * 2, step_seconds=0.5, learning_rate_factor=factor)


def diverged(size: int) -> Training:
    return failed_training(size, learning_rate_factor=4.0, seconds=1.0)


def rows(
    measured: Check, chosen: int, limited_by: LimitedBy = LimitedBy.MEMORY, trials: TrialSet | None = None
) -> dict[tuple[int, int], Candidate]:
    trials = trials or affine(64)
    made = candidates(trials, trials.latest[chosen], measured, ceiling(SIZES[-1], limited_by))
    return {(row.batch_size, row.accumulation_steps): row for row in made}


def test_without_a_critical_batch_size_there_is_no_table() -> None:
    trials = affine(64)
    for measured in (None, Check(status=CheckStatus.NOT_RUN)):
        assert candidates(trials, trials.usable[0], measured, ceiling(SIZES[-1])) == ()


@settings(max_examples=50, deadline=None)
@given(critical=criticals, log_sd=spreads, hardware_batch_size=hardware, chosen=st.sampled_from(SIZES))
def test_times_are_in_units_of_that_of_the_answer(
    critical: float, log_sd: float, hardware_batch_size: float, chosen: int
) -> None:
    trials = affine(hardware_batch_size)
    measured = check(critical, log_sd)
    table = rows(measured, chosen, trials=trials)
    assert table[chosen, 1].relative_time == 1.0
    assert {size for size, steps in table if steps == 1} == set(SIZES)
    belief, law = belief_of(measured), trials.step_time
    assert belief is not None
    assert law is not None
    cost = {size: critical_batch.expected_log_time(size, belief, law) for size in SIZES}
    for size in SIZES:
        ratio = math.exp(cost[size] - cost[chosen])
        assert table[size, 1].relative_time == pytest.approx(ratio)


def test_a_size_that_was_trained_shows_what_it_took() -> None:
    own, other = trained(32, factor=1.0), trained(128, factor=2.5, steps=200)
    table = rows(check(100.0, batch_size=32, trainings=(own, other)), 128)
    row = table[128, 1]
    assert row.learning_rate_factor == 2.5
    assert row.steps == 200
    last = [fmean(evaluation.losses) for evaluation in other.evaluations[-3:]]
    assert row.loss == pytest.approx(fmean(last))
    assert row.steps_to_loss is not None
    assert row.seconds_to_loss is not None
    assert 0 < row.steps_to_loss <= 200
    assert 0 < row.seconds_to_loss <= 100
    assert table[32, 1].steps_to_loss is not None
    assert table[64, 1] == Candidate(batch_size=64, relative_time=table[64, 1].relative_time)


def test_a_size_that_diverged_shows_how_far_it_came() -> None:
    row = rows(check(100.0, batch_size=32, trainings=(trained(32), trained(64), diverged(512))), 64)[512, 1]
    assert (row.steps, row.loss, row.steps_to_loss, row.learning_rate_factor) == (3, None, None, 4.0)


def test_the_last_of_two_trainings_is_shown() -> None:
    found = check(100.0, batch_size=32, trainings=(trained(32), diverged(128), trained(128, factor=2.0)))
    assert rows(found, 128)[128, 1].learning_rate_factor == 2.0


# Accumulation


def accumulated(measured: Check, chosen: int, **given: Any) -> list[Candidate]:
    return [row for (_, steps), row in rows(measured, chosen, **given).items() if steps > 1]


def test_a_larger_size_by_accumulation_is_shown_where_memory_is_in_the_way() -> None:
    """By the law without a limit, the best is 8,192 here: eight times 1,024."""
    (row,) = accumulated(check(1e6), 1024)
    assert row.batch_size == 1024
    assert row.accumulation_steps == 8
    assert row.relative_time == pytest.approx(
        (1 + 1e6 / 8192) * 8 * (1 + 1024 / 64) / ((1 + 1e6 / 1024) * (1 + 1024 / 64))
    )


@settings(max_examples=100, deadline=None)
@given(critical=st.floats(1.0, 1e7), log_sd=spreads, hardware_batch_size=st.floats(0.5, 1e5))
def test_accumulation_always_takes_longer(critical: float, log_sd: float, hardware_batch_size: float) -> None:
    found = accumulated(check(critical, log_sd), 1024, trials=affine(hardware_batch_size))
    assert len(found) <= 1
    for row in found:
        assert row.relative_time > 1
    best = math.sqrt(critical * hardware_batch_size)
    if best > 2 * 1024:
        assert found
    if best < 1024:
        assert not found


@pytest.mark.parametrize("limited_by", [limit for limit in LimitedBy if limit is not LimitedBy.MEMORY])
def test_where_memory_is_not_the_limit_accumulation_is_not_shown(limited_by: LimitedBy) -> None:
    assert accumulated(check(1e6), 1024) != []
    assert accumulated(check(1e6), 1024, limited_by=limited_by) == []


def test_where_the_largest_is_the_best_in_any_case_accumulation_is_not_shown() -> None:
    """No row of one step beside the plain one, either."""
    assert list(rows(check(500.0), 1024)) == [(size, 1) for size in SIZES]


def test_where_a_smaller_size_is_the_answer_accumulation_is_not_shown() -> None:
    assert accumulated(check(1e6), 512) == []
    assert accumulated(check(10.0), 1024) == []

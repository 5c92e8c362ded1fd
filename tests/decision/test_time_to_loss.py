"""Expected times of all sizes: the choice, comparisons, the regret bound and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision import critical_batch
from autobatch.decision.time_to_loss import Outlook, outlook
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, CheckStatus, Training, Veto
from autobatch.records.trial import Outcome
from tests.builders import affine_trials, check, failed_training, loss_by_law, training

SIZES = tuple(2**k for k in range(11))

criticals = st.floats(1.0, 1e5)
hardware = st.floats(0.5, 4096.0)
spreads = st.floats(0.01, 1.5)


def affine(hardware_batch_size: float, sizes: Sequence[int] = SIZES) -> TrialSet:
    return TrialSet(tuple(affine_trials(hardware_batch_size, sizes)))


def expected(trials: TrialSet, measured: Check, current_size: int | None = None) -> Outlook:
    made = outlook(trials, trials, measured, current_size)
    assert made is not None
    return made


def trained(size: int, critical: float = 100.0, worse: float = 1.0, factor: float = 1.0) -> Training:
    """A training by the law, its loss `worse` times as high."""
    loss = loss_by_law(size, critical)
    return training(
        size, 300, lambda steps: (worse * loss(steps),) * 2, step_seconds=0.5, learning_rate_factor=factor
    )


# Expected times


def test_without_a_critical_batch_size_there_is_none() -> None:
    trials = affine(64)
    assert outlook(trials, trials, None, 32) is None
    assert outlook(trials, trials, Check(status=CheckStatus.NOT_RUN), 32) is None


@settings(max_examples=100, deadline=None)
@given(
    critical=criticals, log_sd=spreads, hardware_batch_size=hardware, own=st.none() | st.sampled_from(SIZES)
)
def test_the_choice_has_the_shortest_expected_time_or_is_tied_with_it(
    critical: float, log_sd: float, hardware_batch_size: float, own: int | None
) -> None:
    found = expected(affine(hardware_batch_size), check(critical, log_sd), own)
    assert set(found.times) == set(SIZES)
    least = min(found.times.values())
    chosen = found.choice.batch_size
    assert found.times[chosen] <= 1.1001 * least
    assert chosen == own or own not in found.choice.tied
    assert chosen in found.choice.tied


def test_the_middle_of_what_was_trained_is_no_size_that_was_not() -> None:
    """The valley goes on beyond the trained sizes: its middle is their end, not the middle of their part."""
    both = check(100.0, trainings=(trained(1), trained(256)))
    found = expected(affine(700.0), both)
    assert sorted(found.times) == [size for size in SIZES if size <= 256]
    assert found.choice.batch_size == 256


@settings(max_examples=100, deadline=None)
@given(
    critical=criticals,
    log_sd=spreads,
    hardware_batch_size=hardware,
    size=st.sampled_from(SIZES),
    chosen=st.sampled_from(SIZES),
)
def test_the_interval_of_a_comparison_contains_its_time(
    critical: float, log_sd: float, hardware_batch_size: float, size: int, chosen: int
) -> None:
    found = expected(affine(hardware_batch_size), check(critical, log_sd)).against(size, chosen)
    if size == chosen:
        assert found is None
        return
    assert found is not None
    assert found.batch_size == size
    assert found.low * (1 - 1e-6) <= found.relative_time <= found.high * (1 + 1e-6)
    assert found.low > 0
    # Fewer epochs at a smaller batch, and the times agree with what they are made of.
    assert (found.epochs_ratio > 1) == (chosen > size)


def test_two_comparisons_of_one_pair_are_each_others_inverse() -> None:
    made = expected(affine(64), check(200.0))
    one, other = made.against(32, 256), made.against(256, 32)
    assert one is not None
    assert other is not None
    assert one.relative_time * other.relative_time == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)
    assert one.epochs_ratio * other.epochs_ratio == pytest.approx(1)


def test_a_comparison_by_hand() -> None:
    made = expected(affine(64), check(100.0, 0.001))
    found = made.against(32, 256)
    assert found is not None
    # (1 + 100 / 32) (1 + 32 / 64) against (1 + 100 / 256) (1 + 256 / 64).
    assert found.relative_time == pytest.approx((4.125 * 1.5) / (1.390625 * 5), rel=1e-3)
    assert found.epochs_ratio == pytest.approx((256 + 100) / (32 + 100))


def test_an_open_interval_is_compared_at_its_end_by_throughput() -> None:
    made = expected(affine(64), check(100.0, interval=(50.0, None)))
    found = made.against(32, 256)
    assert found is not None
    by_throughput = (1.5 / 32) / (5 / 256)
    assert by_throughput < found.high < by_throughput * 1.1
    _, high = critical_batch.prediction_interval(found.relative_time, [by_throughput])
    assert found.high == pytest.approx(high)


def test_a_size_without_a_name_is_not_compared() -> None:
    assert expected(affine(64), check(100.0)).against(None, 64) is None


@settings(max_examples=100, deadline=None)
@given(critical=criticals, log_sd=spreads, hardware_batch_size=hardware, chosen=st.sampled_from(SIZES))
def test_the_runner_up_is_the_best_of_the_others(
    critical: float, log_sd: float, hardware_batch_size: float, chosen: int
) -> None:
    made = expected(affine(hardware_batch_size), check(critical, log_sd))
    found = made.runner_up(chosen)
    assert found is not None
    assert found.batch_size != chosen
    others = [one for size in SIZES if (one := made.against(size, chosen)) is not None]
    assert found.relative_time == min(one.relative_time for one in others)


def test_a_size_alone_has_no_runner_up_and_no_regret() -> None:
    made = expected(affine(64, (32,)), check(100.0))
    assert made.runner_up(32) is None
    assert made.regret_bound(32) == 1.0


@settings(max_examples=100, deadline=None)
@given(
    critical=criticals,
    log_sd=spreads,
    hardware_batch_size=hardware,
    chosen=st.sampled_from(SIZES),
    inside=st.floats(0.0, 1.0),
    is_open=st.booleans(),
)
def test_no_size_beats_the_regret_bound_inside_the_interval(
    critical: float, log_sd: float, hardware_batch_size: float, chosen: int, inside: float, is_open: bool
) -> None:
    found = check(critical, log_sd)
    assert found.interval is not None
    low, high = found.interval
    if is_open:
        found = replace(found, interval=(low, None))
    made = expected(affine(hardware_batch_size), found)
    bound = made.regret_bound(chosen)
    assert bound >= 1
    assert high is not None
    true = low * (high / low) ** inside
    best = min(critical_batch.relative_time(size, true, made.law) for size in SIZES)
    assert critical_batch.relative_time(chosen, true, made.law) / best <= bound * (1 + 1e-6)


def test_sizes_that_may_not_be_taken_still_tell_the_time_of_a_step() -> None:
    passed = affine(64)
    allowed = passed.only(range(17))
    made = outlook(passed, allowed, check(1000.0), 32)
    assert made is not None
    assert set(made.times) == {1, 2, 4, 8, 16}
    assert made.law == passed.step_time
    assert made.choice.batch_size == 16


def test_beyond_what_trained_well_nothing_is_chosen() -> None:
    passed = affine(64)
    found = check(1e4, batch_size=32, trainings=(trained(32), trained(128)))
    assert set(expected(passed, check(1e4)).times) == set(SIZES)
    made = expected(passed, found)
    assert set(made.times) == {32, 64, 128}
    assert made.choice.batch_size == 128


@pytest.mark.parametrize("trainings", [(), (trained(32),)])
def test_without_trainings_to_compare_nothing_below_the_base_is_chosen(
    trainings: tuple[Training, ...],
) -> None:
    """The noise of a language model's first steps is a twentieth of what it is later."""
    found = check(2.0, batch_size=32, trainings=trainings)
    assert set(expected(affine(64), found).times) == {size for size in SIZES if size >= 32}


def test_where_all_sizes_are_below_the_base_they_may_be_taken() -> None:
    assert set(expected(affine(64, (2, 4, 8)), check(2.0, batch_size=32)).times) == {2, 4, 8}


@pytest.mark.parametrize("bad", [failed_training(512), failed_training(512, Outcome.OUT_OF_MEMORY)])
def test_a_size_that_failed_to_train_is_not_chosen(bad: Training) -> None:
    """Nor is what lies between it and the next that trained well."""
    found = check(1e4, batch_size=32, trainings=(trained(32), trained(128), bad))
    assert expected(affine(64), found).choice.batch_size == 128


def test_a_vetoed_size_is_not_chosen() -> None:
    trainings = (trained(32), trained(128), trained(512, worse=9.0), trained(512, worse=9.0))
    found = check(1e4, batch_size=32, trainings=trainings, vetoed=(Veto(batch_size=512, reason="worse"),))
    assert expected(affine(64), found).choice.batch_size == 128


def test_a_size_that_trained_worse_and_had_no_second_try_is_not_chosen() -> None:
    found = check(1e4, batch_size=32, trainings=(trained(32), trained(512, worse=9.0)))
    assert expected(affine(64), found).choice.batch_size == 32


@pytest.mark.parametrize(("critical", "kept"), [(150.0, True), (190.0, False)])
def test_the_current_size_is_kept_where_it_is_tied(critical: float, kept: bool) -> None:
    passed = affine(256)
    law = passed.step_time
    assert law is not None
    best = critical_batch.best_size(SIZES, critical, law)
    assert best != 128
    ratio = critical_batch.time_ratio(128, best, critical, law)
    assert (1 < ratio < 1.05) if kept else (1.05 < ratio < 1.10)
    assert (expected(passed, check(critical, 0.01), 128).choice.batch_size == 128) == kept


def test_a_critical_batch_size_without_any_bound_is_no_error() -> None:
    """`noise_scale(8, (1, 1, 1, 1.5), (4, 4, 4, 4.5))` is one: all chunks but one are equal."""
    trials = affine(64)
    outlook(trials, trials, check(2.0, interval=(0.0, None), log_sd=math.inf), 32)

"""The answer beside all other sizes: expected times, what limits it, and what accumulation would cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision import critical_batch
from autobatch.decision.time_to_loss import (
    Outlook,
    learning_rate_factor,
    limit,
    outlook,
    step_time_law,
    with_candidates,
)
from autobatch.records.check import Candidate, Check, CheckStatus, Evaluation, Training, Veto
from autobatch.records.recommendation import AnswerLimit
from autobatch.records.trial import Ceiling, LimitedBy, Outcome, Trial

SIZES = tuple(2**k for k in range(11))

criticals = st.floats(1.0, 1e5)
hardware = st.floats(0.5, 4096.0)
spreads = st.floats(0.01, 1.5)


def trial(size: int, step_seconds: float, rounds: int = 3) -> Trial:
    return Trial(
        batch_size=size,
        outcome=Outcome.OK,
        step_seconds=(step_seconds,) * rounds,
        samples_per_second=size / step_seconds,
    )


def affine(hardware_batch_size: float, sizes: Sequence[int] = SIZES) -> list[Trial]:
    return [trial(size, 1e-3 * (1 + size / hardware_batch_size)) for size in sizes]


def at(trials: Sequence[Trial], size: int) -> Trial:
    return next(one for one in trials if one.batch_size == size)


def check(critical: float, log_sd: float = 0.8, reference_size: int = 1, **given: object) -> Check:
    reach = math.exp(1.645 * log_sd)
    found = Check(
        status=CheckStatus.NOISE_ONLY,
        batch_size=reference_size,
        noise_scale=critical / 2,
        critical_batch_size=critical,
        interval=(critical / reach, critical * reach),
        log_sd=log_sd,
    )
    return replace(found, **given)  # type: ignore[arg-type]


def looked_at(passed: Sequence[Trial], found: Check, current_size: int | None = None) -> Outlook:
    made = outlook(passed, passed, found, current_size)
    assert made is not None
    return made


def trained(
    size: int, critical: float = 100.0, steps: int = 300, worse: float = 1.0, factor: float = 1.0
) -> Training:
    """By the law, its loss `worse` times as high."""
    made = sorted({4, 5, 6, *(math.ceil(4 * 1.2**k) for k in range(3, 24)), steps})
    evaluations = tuple(
        Evaluation(
            steps=n,
            seconds=0.5 * n,
            losses=(worse * (1 + n / (1 + critical / size) / 5) ** -0.5,) * 2,
        )
        for n in made
        if n <= steps
    )
    return Training(
        batch_size=size,
        learning_rate_factor=factor,
        outcome=Outcome.OK,
        steps=steps,
        seconds=0.5 * steps,
        evaluations=evaluations,
    )


def failed(size: int, outcome: Outcome = Outcome.DIVERGED) -> Training:
    return Training(batch_size=size, learning_rate_factor=4.0, outcome=outcome, steps=3, seconds=1.0)


def ceiling(limited_by: LimitedBy = LimitedBy.MEMORY, size: int = SIZES[-1]) -> Ceiling:
    return Ceiling(batch_size=size, limited_by=limited_by, verified=True)


# The outlook


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
    found = looked_at(affine(hardware_batch_size), check(critical, log_sd), own)
    assert set(found.times) == set(SIZES)
    least = min(found.times.values())
    chosen = found.choice.batch_size
    assert found.times[chosen] <= 1.1001 * least
    assert chosen == own or own not in found.choice.tied
    assert chosen in found.choice.tied


def test_the_middle_of_what_was_trained_is_no_size_that_was_not() -> None:
    """The valley goes on beyond the trained sizes: its middle is their end, not the middle of their part."""
    both = check(100.0, trainings=(trained(1), trained(256)))
    found = looked_at(affine(700.0), both)
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
    found = looked_at(affine(hardware_batch_size), check(critical, log_sd)).against(size, chosen)
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
    made = looked_at(affine(64), check(200.0))
    one, other = made.against(32, 256), made.against(256, 32)
    assert one is not None
    assert other is not None
    assert one.relative_time * other.relative_time == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)
    assert one.epochs_ratio * other.epochs_ratio == pytest.approx(1)


def test_a_comparison_by_hand() -> None:
    made = looked_at(affine(64), check(100.0, 0.001))
    found = made.against(32, 256)
    assert found is not None
    # (1 + 100 / 32) (1 + 32 / 64) against (1 + 100 / 256) (1 + 256 / 64).
    assert found.relative_time == pytest.approx((4.125 * 1.5) / (1.390625 * 5), rel=1e-3)
    assert found.epochs_ratio == pytest.approx((256 + 100) / (32 + 100))


def test_an_open_interval_is_compared_at_its_end_by_throughput() -> None:
    made = looked_at(affine(64), check(100.0, interval=(50.0, None)))
    found = made.against(32, 256)
    assert found is not None
    assert found.high == pytest.approx((1.5 / 32) / (5 / 256))


def test_a_size_without_a_name_is_not_compared() -> None:
    assert looked_at(affine(64), check(100.0)).against(None, 64) is None


@settings(max_examples=100, deadline=None)
@given(critical=criticals, log_sd=spreads, hardware_batch_size=hardware, chosen=st.sampled_from(SIZES))
def test_the_runner_up_is_the_best_of_the_others(
    critical: float, log_sd: float, hardware_batch_size: float, chosen: int
) -> None:
    made = looked_at(affine(hardware_batch_size), check(critical, log_sd))
    found = made.runner_up(chosen)
    assert found is not None
    assert found.batch_size != chosen
    others = [one for size in SIZES if (one := made.against(size, chosen)) is not None]
    assert found.relative_time == min(one.relative_time for one in others)


def test_a_size_alone_has_no_runner_up_and_no_regret() -> None:
    made = looked_at(affine(64, (32,)), check(100.0))
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
    made = looked_at(affine(hardware_batch_size), found)
    bound = made.regret_bound(chosen)
    assert bound >= 1
    assert high is not None
    true = low * (high / low) ** inside
    best = min(critical_batch.relative_time(size, true, made.law) for size in SIZES)
    assert critical_batch.relative_time(chosen, true, made.law) / best <= bound * (1 + 1e-6)


def test_sizes_that_may_not_be_taken_still_tell_the_time_of_a_step() -> None:
    passed = affine(64)
    allowed = [one for one in passed if one.batch_size <= 16]
    made = outlook(passed, allowed, check(1000.0), 32)
    assert made is not None
    assert set(made.times) == {1, 2, 4, 8, 16}
    assert made.law == step_time_law(passed)
    assert made.choice.batch_size == 16


def test_beyond_what_trained_well_nothing_is_chosen() -> None:
    passed = affine(64)
    found = check(1e4, reference_size=32, trainings=(trained(32), trained(128)))
    assert set(looked_at(passed, check(1e4)).times) == set(SIZES)
    made = looked_at(passed, found)
    assert set(made.times) == {32, 64, 128}
    assert made.choice.batch_size == 128


@pytest.mark.parametrize("trainings", [(), (trained(32),)])
def test_without_trainings_to_compare_nothing_below_the_base_is_chosen(
    trainings: tuple[Training, ...],
) -> None:
    """The noise of a language model's first steps is a twentieth of what it is later."""
    found = check(2.0, reference_size=32, trainings=trainings)
    assert set(looked_at(affine(64), found).times) == {size for size in SIZES if size >= 32}


def test_where_all_sizes_are_below_the_base_they_may_be_taken() -> None:
    assert set(looked_at(affine(64, (2, 4, 8)), check(2.0, reference_size=32)).times) == {2, 4, 8}


@pytest.mark.parametrize("bad", [failed(512), failed(512, Outcome.OUT_OF_MEMORY)])
def test_a_size_that_failed_to_train_is_not_chosen(bad: Training) -> None:
    """Nor is what lies between it and the next that trained well."""
    found = check(1e4, reference_size=32, trainings=(trained(32), trained(128), bad))
    assert looked_at(affine(64), found).choice.batch_size == 128


def test_a_vetoed_size_is_not_chosen() -> None:
    trainings = (trained(32), trained(128), trained(512, worse=9.0), trained(512, worse=9.0))
    found = check(1e4, reference_size=32, trainings=trainings, vetoed=(Veto(batch_size=512, reason="worse"),))
    assert looked_at(affine(64), found).choice.batch_size == 128


def test_a_size_that_trained_worse_and_had_no_second_try_is_not_chosen() -> None:
    found = check(1e4, reference_size=32, trainings=(trained(32), trained(512, worse=9.0)))
    assert looked_at(affine(64), found).choice.batch_size == 32


def test_a_tie_is_narrower_with_trainings() -> None:
    """Between 5 and 10% slower than the best, the present size is kept as long as nothing was trained."""
    passed = affine(256)
    ratio = critical_batch.relative_time(128, 190.0, step_time_law(passed)) / critical_batch.relative_time(
        256, 190.0, step_time_law(passed)
    )
    assert 1.05 < ratio < 1.10
    sure = check(190.0, 0.01)
    assert looked_at(passed, sure, 128).choice.batch_size == 128
    both = replace(sure, trainings=(trained(128), trained(256)))
    assert looked_at(passed, both, 128).choice.batch_size == 256


def test_a_critical_batch_size_without_any_bound_is_no_error() -> None:
    """`noise_scale(8, (1, 1, 1, 1.5), (4, 4, 4, 4.5))` is one: all chunks but one are equal."""
    trials = affine(64)
    outlook(trials, trials, check(2.0, interval=(0.0, None), log_sd=math.inf), 32)


def test_the_learning_rate_follows_the_gain_from_the_size_it_is_meant_for() -> None:
    found = check(64.0)
    assert learning_rate_factor(found, 32, 32, 1.0) == 1.0
    assert learning_rate_factor(found, 32, 64, 1.0) == pytest.approx((1 + 64 / 32) / (1 + 64 / 64))
    assert learning_rate_factor(found, 32, 64, 0.5) == pytest.approx(math.sqrt(1.5))


# The table of candidates


def rows(
    found: Check, chosen: int, limited_by: LimitedBy = LimitedBy.MEMORY, passed: Sequence[Trial] = ()
) -> dict[tuple[int, int], Candidate]:
    passed = passed or affine(64)
    made = with_candidates(found, passed, at(passed, chosen), ceiling(limited_by))
    assert made is not None
    return {(one.batch_size, one.accumulation_steps): one for one in made.candidates}


def test_without_a_critical_batch_size_there_is_no_table() -> None:
    trials = affine(64)
    not_run = Check(status=CheckStatus.NOT_RUN)
    assert with_candidates(None, trials, trials[0], ceiling()) is None
    assert with_candidates(not_run, trials, trials[0], ceiling()) == not_run


@settings(max_examples=50, deadline=None)
@given(critical=criticals, log_sd=spreads, hardware_batch_size=hardware, chosen=st.sampled_from(SIZES))
def test_times_are_in_units_of_that_of_the_answer(
    critical: float, log_sd: float, hardware_batch_size: float, chosen: int
) -> None:
    passed = affine(hardware_batch_size)
    found = check(critical, log_sd)
    table = rows(found, chosen, passed=passed)
    assert table[chosen, 1].relative_time == 1.0
    assert {size for size, steps in table if steps == 1} == set(SIZES)
    made = looked_at(passed, found)
    for size in SIZES:
        assert table[size, 1].relative_time == pytest.approx(made.times[size] / made.times[chosen])


def test_a_size_that_was_trained_shows_what_it_took() -> None:
    own, other = trained(32, factor=1.0), trained(128, factor=2.5, steps=200)
    table = rows(check(100.0, reference_size=32, trainings=(own, other)), 128)
    row = table[128, 1]
    assert row.learning_rate_factor == 2.5
    assert row.steps == 200
    assert row.loss == pytest.approx(fmean(other.evaluations[-1].losses))
    assert row.steps_to_loss is not None
    assert row.seconds_to_loss is not None
    assert 0 < row.steps_to_loss <= 200
    assert 0 < row.seconds_to_loss <= 100
    assert table[32, 1].steps_to_loss is not None
    assert table[64, 1] == Candidate(batch_size=64, relative_time=table[64, 1].relative_time)


def test_a_size_that_diverged_shows_how_far_it_came() -> None:
    row = rows(check(100.0, reference_size=32, trainings=(trained(32), trained(64), failed(512))), 64)[512, 1]
    assert (row.steps, row.loss, row.steps_to_loss, row.learning_rate_factor) == (3, None, None, 4.0)


def test_the_last_of_two_trainings_is_shown() -> None:
    found = check(100.0, reference_size=32, trainings=(trained(32), failed(128), trained(128, factor=2.0)))
    assert rows(found, 128)[128, 1].learning_rate_factor == 2.0


# Accumulation


def accumulated(found: Check, chosen: int, **given: object) -> list[Candidate]:
    return [one for (_, steps), one in rows(found, chosen, **given).items() if steps > 1]  # type: ignore[arg-type]


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
    found = accumulated(check(critical, log_sd), 1024, passed=affine(hardware_batch_size))
    assert len(found) <= 1
    for row in found:
        assert row.relative_time > 1
    best = math.sqrt(critical * hardware_batch_size)
    if best > 2 * 1024:
        assert found
    if best < 1024:
        assert not found


@pytest.mark.parametrize("limited_by", [one for one in LimitedBy if one is not LimitedBy.MEMORY])
def test_where_memory_is_not_the_limit_accumulation_is_not_shown(limited_by: LimitedBy) -> None:
    assert accumulated(check(1e6), 1024) != []
    assert accumulated(check(1e6), 1024, limited_by=limited_by) == []


def test_where_the_largest_is_the_best_in_any_case_accumulation_is_not_shown() -> None:
    """No row of one step beside the plain one, either."""
    passed = affine(64)
    made = with_candidates(check(500.0), passed, at(passed, 1024), ceiling())
    assert made is not None
    assert [one.batch_size for one in made.candidates] == list(SIZES)


def test_where_a_smaller_size_is_the_answer_accumulation_is_not_shown() -> None:
    assert accumulated(check(1e6), 512) == []
    assert accumulated(check(10.0), 1024) == []


# What limits the answer


@pytest.mark.parametrize(
    ("limited_by", "expected"),
    [
        (LimitedBy.MEMORY, AnswerLimit.MEMORY),
        (LimitedBy.SIZE_LIMIT, AnswerLimit.MEMORY),
        (LimitedBy.PLATEAU, AnswerLimit.THROUGHPUT),
        (LimitedBy.DATASET, AnswerLimit.DATASET),
        (LimitedBy.BUDGET, AnswerLimit.OPTIONS),
        (LimitedBy.MAX_BATCH, AnswerLimit.OPTIONS),
    ],
)
def test_the_largest_size_is_limited_by_what_limits_the_climb(
    limited_by: LimitedBy, expected: AnswerLimit
) -> None:
    trials = affine(64)
    assert limit(trials, trials[-1], ceiling(limited_by), check(100.0)) is expected


def test_every_reason_to_stop_climbing_has_its_limit() -> None:
    trials = affine(64)
    for limited_by in LimitedBy:
        assert limit(trials, trials[-1], ceiling(limited_by), None) in AnswerLimit


def test_a_larger_size_that_is_quicker_per_sample_is_held_back_by_generalization() -> None:
    trials = affine(1000)
    assert limit(trials, at(trials, 64), ceiling(), check(100.0)) is AnswerLimit.GENERALIZATION


def test_a_larger_size_that_is_no_quicker_is_held_back_by_throughput() -> None:
    trials = affine(1)
    assert limit(trials, at(trials, 64), ceiling(), check(100.0)) is AnswerLimit.THROUGHPUT


@pytest.mark.parametrize(
    ("rise", "expected"), [(1.04, AnswerLimit.THROUGHPUT), (1.06, AnswerLimit.GENERALIZATION)]
)
def test_five_percent_more_throughput_is_the_border(rise: float, expected: AnswerLimit) -> None:
    trials = [trial(32, 0.1), trial(64, 0.2 / rise)]
    assert limit(trials, trials[0], ceiling(), None) is expected


def test_any_larger_size_that_is_quicker_means_that_throughput_is_not_the_limit() -> None:
    trials = [trial(32, 0.1), trial(128, 0.2), trial(64, 0.2)]
    assert limit(trials, trials[0], ceiling(), None) is AnswerLimit.GENERALIZATION


@pytest.mark.parametrize("hardware_batch_size", [1, 1000])
def test_a_veto_right_above_is_the_limit(hardware_batch_size: float) -> None:
    trials = affine(hardware_batch_size)
    found = check(100.0, vetoed=(Veto(batch_size=128, reason="worse"),))
    assert limit(trials, at(trials, 64), ceiling(), found) is AnswerLimit.VETO


def test_a_veto_further_above_is_none() -> None:
    trials = affine(1)
    found = check(100.0, vetoed=(Veto(batch_size=128, reason="worse"),))
    assert limit(trials, at(trials, 32), ceiling(), found) is AnswerLimit.THROUGHPUT


def test_a_veto_of_a_smaller_size_is_no_limit() -> None:
    trials = affine(1)
    found = check(100.0, vetoed=(Veto(batch_size=8, reason="the training diverged"),))
    assert limit(trials, at(trials, 64), ceiling(), found) is AnswerLimit.THROUGHPUT


def test_a_larger_size_without_a_speed_tells_nothing() -> None:
    trials = [trial(32, 0.1), Trial(batch_size=64, outcome=Outcome.OK, step_seconds=(0.2,) * 3)]
    assert limit(trials, trials[0], ceiling(), None) is None

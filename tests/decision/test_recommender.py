"""The recommender is pure: curves in, one measured size out; a saved answer can be decided again."""

from __future__ import annotations

from dataclasses import replace
from math import log2, sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autobatch
from autobatch.decision.recommender import decide_again, recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, CheckStatus, Veto
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import AnswerLimit, Environment, Recommendation
from autobatch.records.trial import Communication, Curve
from tests import builders, strategies

SIZES = tuple(2**power for power in range(13))
TO_LOSS = Limits(objective=Objective.TIME_TO_LOSS)


def affine(fixed_seconds: float, sample_seconds: float, ceiling: int = 4096, **workload: Any) -> Curve:
    """A curve of exactly t(B) = a + b B, out of memory beyond the ceiling."""
    return builders.curve(
        [
            builders.trial(size, fixed_seconds + sample_seconds * size, peak_bytes=1000 * size)
            if size <= ceiling
            else builders.failed_trial(size)
            for size in SIZES
        ],
        workload=builders.workload(**workload),
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(2.0, 2000.0), st.floats(2.0, 2000.0), st.sampled_from([16, 256, 4096]))
def test_the_shortest_time_is_chosen_up_to_the_ceiling(
    hardware: float, critical: float, ceiling: int
) -> None:
    """B* = sqrt(B_hw B_crit): property 6, on powers of two."""
    chosen = recommend(
        affine(hardware * 1e-5, 1e-5, ceiling), builders.check(critical, 0.01), TO_LOSS
    ).batch_size

    def time(size: float) -> float:
        return (1 + critical / size) * (hardware + size)

    best = min(time(size) for size in SIZES if size <= ceiling)
    assert chosen <= ceiling
    assert time(chosen) <= 1.03 * best
    if 2 < sqrt(hardware * critical) < ceiling / 2:
        assert abs(log2(chosen / sqrt(hardware * critical))) <= 1


def test_the_current_size_wins_a_tie() -> None:
    check = builders.check(90.0, 0.01)
    assert recommend(affine(64e-5, 1e-5), check, TO_LOSS).batch_size == 64
    closer = builders.check(120.0, 0.01)
    answer = recommend(affine(64e-5, 1e-5, batch_size=128), closer, TO_LOSS)
    assert answer.batch_size == 128
    assert recommend(affine(64e-5, 1e-5, batch_size=64), closer, TO_LOSS).batch_size == 64
    assert recommend(affine(64e-5, 1e-5, batch_size=4096), check, TO_LOSS).batch_size == 64


def test_without_a_check_the_knee_is_taken() -> None:
    answer = recommend(affine(64e-5, 1e-5))
    assert answer.batch_size == 1024
    assert "within 5% of the best throughput" in answer.why
    assert answer.learning_rate is None


def test_a_check_without_an_answer_falls_back_to_the_knee() -> None:
    check = Check(status=CheckStatus.NOT_RUN, detail="too little of the budget was left")
    answer = recommend(affine(64e-5, 1e-5), check)
    assert answer.batch_size == 1024
    assert answer.check == check


@pytest.mark.parametrize(("optimizer", "power"), [("SGD", 1.0), ("AdamW", 0.5)])
def test_the_learning_rate_follows_the_noise_rule(optimizer: str, power: float) -> None:
    measured = affine(1.0, 1e-5, 512, batch_size=32, learning_rate=0.1, optimizer=optimizer)
    answer = recommend(measured, builders.check(1000.0, 0.01), TO_LOSS)
    assert answer.batch_size == 512
    assert answer.learning_rate == pytest.approx(0.1 * ((1 + 1000 / 32) / (1 + 1000 / 512)) ** power)


def test_an_unknown_optimizer_gets_no_learning_rate() -> None:
    measured = affine(1.0, 1e-5, 512, batch_size=32, learning_rate=0.1, optimizer="Sophia")
    assert recommend(measured, builders.check(1000.0, 0.01)).learning_rate is None


def test_candidates_are_relative_to_the_answer_and_leave_the_check_as_measured() -> None:
    check = builders.check(64.0, 0.01)
    answer = recommend(affine(64e-5, 1e-5), check, TO_LOSS)
    assert answer.check == check
    times = {row.batch_size: row.relative_time for row in answer.candidates}
    assert times[answer.batch_size] == pytest.approx(1.0)
    assert min(times.values()) >= 0.999
    assert set(times) == set(SIZES)


# Deciding again


CHECKS = st.none() | st.builds(
    builders.check,
    st.floats(2.0, 1e4),
    st.floats(0.05, 1.5),
    batch_size=st.sampled_from(SIZES),
    vetoed=st.lists(st.builds(Veto, batch_size=st.sampled_from(SIZES), reason=st.just("worse"))).map(tuple),
)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """Any trials, one of which at least is usable, of one or several ranks."""
    trials = draw(st.lists(strategies.measured_trials(), min_size=1, max_size=12))
    last = draw(st.sampled_from(SIZES).map(lambda size: builders.trial(size, peak_bytes=size)))
    ranks = draw(st.sampled_from([1, 1, 2]))
    communication = Communication(batch_size=last.batch_size, step_seconds=0.2, alone_seconds=0.1)
    return builders.curve(
        [*trials, last],
        ceiling=builders.ceiling(draw(st.integers(last.batch_size, 4096))),
        warnings=draw(st.lists(st.sampled_from(["busy", "throttled"]), max_size=2).map(tuple)),
        workload=builders.workload(
            batch_size=draw(st.none() | st.sampled_from(SIZES)),
            learning_rate=0.1,
            dataset_size=draw(st.none() | st.integers(1, 10**6)),
        ),
        device=builders.device(limit_bytes=draw(st.none() | st.integers(1, 10**6))),
        world_size=ranks,
        communication=communication if ranks > 1 else None,
    )


LIMITS = st.builds(
    Limits,
    objective=st.sampled_from(Objective),
    min_batch=st.integers(1, 16),
    max_batch=st.none() | st.integers(64, 4096),
    multiple_of=st.sampled_from([1, 2, 8]),
    memory_bytes=st.none() | st.integers(1, 10**6),
    global_batch=st.none() | st.sampled_from([64, 128, 1024]),
)


def decided(curve: Curve, check: Check | None, limits: Limits) -> Recommendation | None:
    try:
        return recommend(curve, check, limits)
    except UsageError:
        return None


@settings(max_examples=200, deadline=None)
@given(curves(), CHECKS, LIMITS, LIMITS)
def test_only_measured_sizes_within_the_limits_are_ever_recommended(
    curve: Curve, check: Check | None, limits: Limits, others: Limits
) -> None:
    first = decided(curve, check, limits)
    if first is None:
        return
    for answer in (first, decided(first.curve, first.check, others)):
        if answer is None:
            continue
        assert answer.chosen in TrialSet.of(curve).usable
        assert answer.limits.smallest <= answer.batch_size <= (answer.limits.max_batch or 4096)
        assert answer.batch_size % answer.limits.multiple_of == 0
        product = answer.batch_size * answer.accumulation_steps * answer.world_size
        assert answer.global_batch_size == product


@settings(max_examples=200, deadline=None)
@given(curves(), CHECKS, LIMITS, LIMITS)
def test_a_measurement_decided_again_within_the_same_limits_gives_the_same_answer(
    curve: Curve, check: Check | None, limits: Limits, others: Limits
) -> None:
    answer = decided(curve, check, limits)
    if answer is None:
        return
    assert answer.curve == curve
    assert decide_again(answer) == decide_again(answer, limits) == answer
    # Nothing is lost by a decision in between.
    try:
        between = decide_again(answer, others)
    except UsageError:
        return
    assert decide_again(between, limits) == answer


def test_deciding_again_keeps_where_and_when_it_was_measured() -> None:
    environment = Environment(
        autobatch="0",
        python="3",
        torch="2",
        platform="any",
        cpu="any",
        started_at="2026-01-01T00:00:00+00:00",
        elapsed_seconds=1.0,
    )
    answer = replace(recommend(affine(64e-5, 1e-5)), environment=environment, cached=True)
    again = decide_again(answer, objective=Objective.MEMORY)
    assert (again.environment, again.cached) == (environment, True)


def test_other_objectives_of_a_saved_measurement() -> None:
    answer = recommend(affine(64e-5, 1e-5), builders.check(90.0, 0.01), TO_LOSS)
    assert answer.batch_size == 64
    assert decide_again(answer, objective="memory").batch_size == 4096
    assert decide_again(answer, objective=Objective.THROUGHPUT).batch_size == 4096
    assert decide_again(answer, Limits(objective=Objective.MEMORY)).batch_size == 4096
    with pytest.raises(UsageError, match="objective"):
        decide_again(answer, objective="luck")


def test_a_lower_largest_size_limits_the_answer() -> None:
    answer = recommend(affine(64e-5, 1e-5), builders.check(90.0, 0.01), TO_LOSS)
    again = decide_again(answer, replace(TO_LOSS, max_batch=16))
    assert again.batch_size == 16
    assert again.limited_by is AnswerLimit.OPTIONS
    assert again.step_time == answer.step_time, "it is that of all sizes"


def test_less_memory_excludes_the_sizes_that_held_more() -> None:
    measured = affine(64e-5, 1e-5)
    measured = replace(measured, device=builders.device(limit_bytes=5_000_000))
    answer = recommend(measured, None, Limits(objective=Objective.MEMORY))
    assert answer.batch_size == 4096
    again = decide_again(answer, Limits(objective=Objective.MEMORY, memory_bytes=600_000))
    assert again.batch_size == 512
    half = Limits(objective=Objective.MEMORY, memory_bytes=600_000, memory_fraction=0.5)
    assert decide_again(answer, half).batch_size == 256
    # More than was available tells nothing about larger sizes.
    assert decide_again(answer, replace(half, memory_bytes=10**9)).batch_size == 4096


def test_limits_that_permit_no_measured_size_are_refused() -> None:
    answer = recommend(affine(64e-5, 1e-5))
    with pytest.raises(UsageError) as raised:
        decide_again(answer, Limits(min_batch=5000))
    assert raised.value.code == "nothing_measured"
    assert "1, 2, 4" in raised.value.facts[0]


def test_the_public_function_decides_a_saved_answer_again() -> None:
    answer = recommend(affine(64e-5, 1e-5))
    assert autobatch.recommend(answer, objective="memory").batch_size == 4096


# Objectives


def test_objectives() -> None:
    measured = affine(64e-5, 1e-5, 1024)
    assert recommend(measured, None, Limits(objective=Objective.MEMORY)).batch_size == 1024
    assert recommend(measured, None, Limits(objective=Objective.THROUGHPUT)).batch_size == 1024


def test_a_rough_time_of_an_untimed_size_does_not_win() -> None:
    """A size tried for memory alone has one lucky step; timed sizes have medians of rounds."""
    measured = affine(64e-5, 1e-5, 1024)
    lucky = builders.trial(768, 1e-6, rounds=1)
    assert recommend(replace(measured, trials=(*measured.trials, lucky))).batch_size != 768


@given(st.integers(64, 100_000))
def test_a_global_batch_is_met_exactly_by_measured_divisors_or_a_warning_says_so(target: int) -> None:
    answer = recommend(affine(64e-5, 1e-5, 1024), None, Limits(global_batch=target))
    assert answer.batch_size in SIZES
    assert answer.global_batch_size == answer.batch_size * answer.accumulation_steps
    assert answer.global_batch_size == target or any("not met" in text for text in answer.warnings)


def test_measured_warnings_are_kept_apart_from_derived_ones() -> None:
    measured = replace(affine(64e-5, 1e-5, synthetic=True), warnings=("the machine was busy",))
    answer = recommend(measured)
    assert answer.measured_warnings == ("the machine was busy",)
    assert answer.warnings[0] == "the machine was busy"
    assert len(answer.warnings) > 1

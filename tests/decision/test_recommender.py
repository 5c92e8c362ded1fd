"""The recommender is pure: curves in, one measured size out; a saved answer can be decided again."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2, sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autobatch
from autobatch.decision import scaling
from autobatch.decision.constants import USUAL_BATCH_SIZE
from autobatch.decision.recommender import decide_again, recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, CheckStatus, Evaluation, NoisePoint, Training, Veto
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import (
    Action,
    AlternativeKind,
    AnswerLimit,
    Environment,
    Recommendation,
)
from autobatch.records.trial import Communication, Curve, LimitedBy
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


def test_a_check_without_a_result_keeps_the_current_size() -> None:
    check = Check(status=CheckStatus.NOT_RUN, detail="too little of the budget was left")
    answer = recommend(affine(64e-5, 1e-5, batch_size=32, dataset_size=1_000), check)
    assert answer.batch_size == 32
    assert answer.decision is not None
    assert answer.decision.action is Action.KEEP
    assert answer.learning_rate is None
    assert answer.why.startswith("no training shows the final loss of faster sizes")
    random_inputs = affine(64e-5, 1e-5, batch_size=32, dataset_size=1_000, synthetic=True)
    assert recommend(random_inputs, check).batch_size == 1024


@pytest.mark.parametrize(("limited_by", "level"), [(LimitedBy.BUDGET, "low"), (LimitedBy.DATASET, "high")])
def test_a_size_that_was_compared_with_none_is_kept_for_sure_only_where_there_is_no_other(
    limited_by: LimitedBy, level: str
) -> None:
    alone = builders.curve(
        [builders.trial(32)],
        workload=builders.workload(batch_size=32, epochs=10.0, dataset_size=1_000),
        ceiling=builders.ceiling(32, limited_by),
    )
    answer = recommend(alone, checked(1e6, trained(32)))
    assert answer.decision is not None
    assert (answer.decision.action, answer.decision.level.value) == (Action.KEEP, level)


def test_without_a_current_size_a_check_without_a_result_falls_back_to_the_knee() -> None:
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


# The same epochs


def trained(size: int, factor: float = 1.0, epochs: float = 10.0) -> Training:
    """A training on 1,000 samples that ends at `factor` times the loss of the current size."""
    steps = max(20, round(epochs * 1_000 / size))
    evaluations = tuple(
        Evaluation(steps=at, seconds=at / 100, losses=(factor * (0.2 + (0.1 + at * size / 1_000) ** -0.5),))
        for at in sorted({round(steps * part / 20) for part in range(21)})
    )
    return builders.training(size, steps, lambda at: (), evaluations=evaluations)


def checked(critical: float, *trainings: Training, size: int = 32, **fields: Any) -> Check:
    """A check at the current size, with trainings and the noise scale along the first epoch."""
    scale = critical / 2
    points = tuple(NoisePoint(samples_seen=seen, batch_size=scale, low=scale) for seen in (250, 500, 1_000))
    return builders.check(critical, batch_size=size, trainings=trainings, noise_points=points, **fields)


def of_ten_epochs(**fields: Any) -> Curve:
    return affine(256e-5, 1e-5, 512, **({"batch_size": 32, "epochs": 10.0, "dataset_size": 1_000} | fields))


def test_the_answer_holds_its_decision_and_every_size_beside_the_current_one() -> None:
    measured = of_ten_epochs()
    answer = recommend(measured, checked(1e6, trained(32)))
    assert answer.decision is not None
    assert answer.decision.action is Action.CHANGE
    assert answer.batch_size == answer.decision.batch_size == 512
    assert answer.epochs == 10.0
    assert [row.batch_size for row in answer.same_epochs] == [size for size in SIZES if size <= 512]
    assert answer.current is None
    assert answer.regret_bound is None
    # Harmless sizes need no further epochs: the fastest is the answer itself.
    assert answer.alternatives == ()


def test_the_time_to_loss_and_other_objectives_have_no_decision() -> None:
    for objective in set(Objective) - {Objective.TIME}:
        answer = recommend(of_ten_epochs(), checked(1e6, trained(32)), Limits(objective=objective))
        assert answer.decision is None
        assert answer.same_epochs == ()
        assert answer.alternatives == ()


def test_a_size_that_needs_more_epochs_is_an_alternative() -> None:
    measured = of_ten_epochs()
    check = checked(100.0, trained(32))
    answer = recommend(measured, check)
    assert answer.batch_size == 32
    to_loss = recommend(measured, check, TO_LOSS)
    (alternative,) = answer.alternatives
    assert alternative.kind is AlternativeKind.MORE_EPOCHS
    assert alternative.batch_size == to_loss.batch_size > 32
    assert alternative.epochs_ratio == pytest.approx((alternative.batch_size + 100) / (32 + 100))
    assert alternative.epochs == ceil(10 * alternative.epochs_ratio)
    assert alternative.learning_rate_factor == to_loss.learning_rate_factor
    assert to_loss.current is not None
    assert alternative.speedup == pytest.approx(to_loss.current.relative_time)
    assert alternative.interval == pytest.approx((to_loss.current.low, to_loss.current.high))
    unknown = recommend(of_ten_epochs(epochs=None), check)
    assert [row.epochs for row in unknown.alternatives] == [None]


def test_more_epochs_may_pay_at_sizes_beyond_those_that_were_trained() -> None:
    """For the user's epochs 64 is too large, so that nothing larger was trained."""
    check = checked(100.0, trained(32), trained(64, 1.2))
    answer = recommend(of_ten_epochs(), check)
    assert answer.batch_size == 32
    (alternative,) = answer.alternatives
    assert alternative.batch_size > 64
    assert recommend(of_ten_epochs(), check, TO_LOSS).batch_size <= 64


def test_no_alternative_without_a_gain_in_time() -> None:
    assert recommend(of_ten_epochs(), checked(0.5, trained(32))).alternatives == ()
    # 64 would take 2% less time to the same loss, in 47% more epochs.
    for current in (None, 32):
        near = affine(64e-5, 1e-5, 512, batch_size=current, epochs=10.0, dataset_size=1_000)
        assert recommend(near, checked(36.0, trained(32))).alternatives == ()


def test_fewer_epochs_are_no_alternative() -> None:
    slow = affine(1e-9, 1e-5, 512, batch_size=256, epochs=10.0, dataset_size=1_000)
    check = checked(100.0, trained(256), trained(64), size=256)
    assert recommend(slow, check, TO_LOSS).batch_size < 256
    assert recommend(slow, check).batch_size == 256
    assert recommend(slow, check).alternatives == ()


def test_the_answer_is_no_alternative_to_itself() -> None:
    measured = affine(64e-5, 1e-5, 512, batch_size=32, epochs=10.0, dataset_size=1_000)
    check = checked(100.0, trained(32), trained(64), trained(128, 1.3))
    assert recommend(measured, check, TO_LOSS).batch_size == 64
    answer = recommend(measured, check)
    assert answer.batch_size == 64
    assert answer.alternatives == ()


def test_ranks_decide_as_one_rank_with_its_part_of_the_samples() -> None:
    measured = of_ten_epochs()
    communication = Communication(batch_size=32, step_seconds=0.02, alone_seconds=0.01)
    four = replace(of_ten_epochs(dataset_size=4_000), world_size=4, communication=communication)
    check = checked(100.0, trained(32), trained(64))
    alone = recommend(measured, check)
    together = recommend(four, scaling.over_ranks(check, 4))
    assert together.decision == alone.decision
    assert together.batch_size == alone.batch_size
    assert together.same_epochs == alone.same_epochs


# Accumulated gradients


def accumulating(**fields: Any) -> Curve:
    """Four batches of 8 an optimizer step, for ten epochs."""
    return of_ten_epochs(**{"accumulation_steps": 4, "learning_rate": 0.1} | fields)


def test_accumulated_gradients_keep_their_global_batch_and_learning_rate() -> None:
    answer = recommend(accumulating(), checked(20.0, trained(32)))
    assert (answer.batch_size, answer.accumulation_steps, answer.global_batch_size) == (32, 1, 32)
    assert answer.decision is not None
    assert answer.decision.action is Action.CHANGE
    assert answer.learning_rate == pytest.approx(0.1)
    assert [row.batch_size for row in answer.same_epochs] == [1, 2, 4, 8, 16, 32]
    assert answer.alternatives == ()
    assert answer.schedule == ()


def test_a_memory_limit_leaves_accumulation_steps() -> None:
    limited = replace(accumulating(), ceiling=builders.ceiling(16))
    answer = recommend(limited, checked(20.0, size=16))
    assert (answer.batch_size, answer.accumulation_steps, answer.global_batch_size) == (16, 2, 32)


def test_a_faster_global_batch_is_an_alternative() -> None:
    answer = recommend(accumulating(), checked(1e6, trained(32), trained(64), trained(128)))
    assert answer.global_batch_size == 32
    (alternative,) = answer.alternatives
    assert alternative.kind is AlternativeKind.GLOBAL_BATCH
    assert alternative.batch_size > 32
    assert alternative.epochs == 10
    assert alternative.speedup > max(row.speedup for row in answer.same_epochs)
    assert alternative.interval[0] < alternative.speedup < alternative.interval[1]


def test_a_size_that_is_applied_alone_keeps_the_batch() -> None:
    alone = Limits(number_alone=True, keep_learning_rate=True)
    answer = recommend(accumulating(), checked(1e6, trained(32)), alone)
    assert answer.batch_size == 8
    assert recommend(of_ten_epochs(), checked(1e6, trained(32))).batch_size > 32


# Deciding again


CHECKS_WITH_TRAININGS = st.builds(
    lambda critical, size, factors, status: checked(
        critical, *(trained(size, factor) for size, factor in factors.items()), size=size, status=status
    ),
    st.floats(2.0, 1e6),
    st.sampled_from(SIZES),
    st.dictionaries(st.sampled_from(SIZES), st.floats(0.5, 2.0), max_size=4),
    st.sampled_from([CheckStatus.PASSED, CheckStatus.NOISE_ONLY]),
)
CHECKS = (
    CHECKS_WITH_TRAININGS
    | st.none()
    | st.builds(
        builders.check,
        st.floats(2.0, 1e4),
        st.floats(0.05, 1.5),
        batch_size=st.sampled_from(SIZES),
        vetoed=st.lists(st.builds(Veto, batch_size=st.sampled_from(SIZES), reason=st.just("worse"))).map(
            tuple
        ),
    )
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


@st.composite
def measured_at_the_current_size(draw: st.DrawFn) -> tuple[Curve, Check]:
    """A curve and its check, in most cases with a training at the current size."""
    sizes = draw(st.sets(st.sampled_from(SIZES), min_size=2))
    current = draw(st.sampled_from(sorted(sizes)))
    hardware_batch_size, critical = (2.0 ** draw(st.integers(0, 20)) for _ in range(2))
    factors = draw(st.dictionaries(st.sampled_from(sorted(sizes)), st.floats(0.8, 1.5), max_size=3))
    if draw(st.sampled_from([True, True, False])):
        factors[current] = 1.0
    vetoed = draw(st.lists(st.sampled_from(sorted(sizes - {current})), max_size=1))
    curve = builders.curve(
        builders.affine_trials(hardware_batch_size, sorted(sizes)),
        workload=builders.workload(
            batch_size=draw(st.sampled_from([None, current])),
            dataset_size=draw(st.sampled_from([1_000, 1_000, None])),
            epochs=draw(st.sampled_from([10.0, 100.0, 2.0, None])),
        ),
    )
    check = checked(
        critical,
        *(trained(size, factor) for size, factor in factors.items()),
        size=current,
        vetoed=tuple(Veto(batch_size=size, reason="worse") for size in vetoed),
    )
    return curve, check


@settings(max_examples=200, deadline=None)
@given(
    measured_at_the_current_size(), st.sampled_from([True, True, False]), st.none() | st.sampled_from(SIZES)
)
def test_the_same_epochs_keep_the_current_size_where_harms_are_unknown(
    measured: tuple[Curve, Check], has_check: bool, max_batch: int | None
) -> None:
    curve, check = measured
    limits = Limits(max_batch=max_batch)
    answer = decided(curve, check if has_check else None, limits)
    if answer is None:
        return
    permitted = {trial.batch_size for trial in TrialSet.of(curve).within(limits, None).usable}
    assert answer.batch_size in permitted
    if not has_check:
        least = curve.workload.batch_size or USUAL_BATCH_SIZE
        assert answer.batch_size >= least or max(permitted) < least
        return
    assert answer.decision is not None
    assert answer.batch_size == answer.decision.batch_size
    changes = answer.decision.action is Action.CHANGE
    rows = {row.batch_size: row for row in answer.same_epochs}
    assert not changes or (rows[answer.batch_size].safe and rows[answer.batch_size].harm is not None)
    if check.batch_size not in {training.batch_size for training in check.trainings}:
        assert not changes
    if check.batch_size in permitted:
        assert changes == (answer.batch_size != check.batch_size)


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

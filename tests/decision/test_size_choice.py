"""The size that each objective chooses, and the reason why it is not larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision import size_choice
from autobatch.decision.confidence import Speedup, decide
from autobatch.decision.constants import USUAL_BATCH_SIZE
from autobatch.decision.judgement import Judgement
from autobatch.decision.learning_rate import RateWalk
from autobatch.decision.same_epochs import HarmEstimate
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, CheckStatus, Veto
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import AnswerLimit
from autobatch.records.trial import LimitedBy
from tests.builders import affine_trials, ceiling, check, trial, workload

SIZES = tuple(2**k for k in range(11))


def affine(hardware_batch_size: float, sizes: Sequence[int] = SIZES) -> TrialSet:
    return TrialSet(tuple(affine_trials(hardware_batch_size, sizes)))


# The choice


def test_the_knee_is_the_smallest_size_near_the_best_throughput() -> None:
    choice = size_choice.knee(affine(16))
    assert choice.trial.batch_size == 256, "16 / 256 is 6%, 16 / 1,024 is 1.6%"
    assert "the smallest size within 5%" in choice.why
    steep = size_choice.knee(affine(1e6))
    assert steep.trial.batch_size == 1024
    assert "times that of 512" in steep.why
    assert size_choice.knee(affine(16, (32,))).why == "the only size that was measured"


def test_without_a_timed_size_the_largest_is_taken() -> None:
    untimed = TrialSet(tuple(trial(size, rounds=0) for size in (8, 32, 16)))
    for choose in (size_choice.knee, size_choice.highest_throughput, size_choice.largest):
        assert choose(untimed).trial.batch_size == 32


@given(st.sets(st.sampled_from(SIZES), min_size=1), st.sampled_from(SIZES))
def test_vetoes_exclude_larger_sizes_unless_nothing_is_left(sizes: set[int], veto: int) -> None:
    trials = affine(64, sorted(sizes))
    measured = check(100.0, batch_size=1, vetoed=(Veto(batch_size=veto, reason="worse"),))
    left = {t.batch_size for t in size_choice.without_vetoed(trials, measured).usable}
    allowed = {size for size in sizes if size < veto or (veto == 1 and size > 1)}
    assert left == (allowed or sizes)


# The same epochs


def judgement(
    ratios: Mapping[int, float], harms: Mapping[int, float], *, sd: float = 0.02, reference: int = 32
) -> Judgement:
    """The judgement of sizes with these speedups and ratios of final losses; an infinite one failed."""
    speedups = {reference: Speedup(log_ratio=0.0, sd=0.0)}
    speedups |= {size: Speedup(log_ratio=log(ratio), sd=sd) for size, ratio in ratios.items()}
    estimates = {size: HarmEstimate(log_harm=log(ratio), sd=0.005) for size, ratio in harms.items()}
    return Judgement(
        reference=reference,
        speedups=speedups,
        harms=estimates,
        decision=decide(reference, speedups, estimates),
        run_epochs=10.0,
    )


def at_the_same_epochs(judged: Judgement, **fields: Any) -> size_choice.SizeChoice:
    described = workload(**{"batch_size": 32, "epochs": 10.0} | fields)
    return size_choice.at_the_same_epochs(affine(64), judged, None, described)


def test_a_change_says_speedup_interval_and_epochs() -> None:
    choice = at_the_same_epochs(judgement({64: 1.5, 128: 2.0}, {64: 1.0, 128: 1.2}))
    assert choice.trial.batch_size == 64
    assert choice.why == (
        "1.50x as fast as 32 at your 10 epochs (90% CI 1.45 to 1.55), with an expected final loss within 2%"
    )
    assert choice.warnings == ()


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        (judgement({64: 1.04, 16: 0.7}, {64: 1.0, 16: 1.0}), "no other size is more than 5% faster"),
        (judgement({}, {}), "no other size is more than 5% faster"),
        (
            judgement({64: 1.5, 128: 2.0}, {}),
            "no training shows the final loss of faster sizes (best: 128, 2.00x, 90% CI 1.94 to 2.07)",
        ),
        (
            judgement({64: 1.5, 128: 2.0}, {64: 1.0, 128: 1.2}, sd=0.5),
            "no size is surely faster with the same final loss (best: 64, 1.50x, 90% CI 0.66 to 3.41)",
        ),
        (
            judgement({64: 1.5, 128: 2.0}, {64: 1.2, 128: 1.4}),
            "faster sizes end at a higher loss at the same epochs "
            "(64: 1.50x as fast, a final loss 1.20x as high)",
        ),
        (
            judgement({16: 1.5}, {16: inf}),
            "faster sizes end at a higher loss at the same epochs (16: 1.50x as fast, a failed training)",
        ),
    ],
)
def test_each_reason_to_keep_the_current_size(judged: Judgement, why: str) -> None:
    choice = at_the_same_epochs(judged)
    assert choice.trial.batch_size == 32
    assert choice.why == why
    assert choice.judgement is judged


def test_unknown_epochs_are_a_warning_where_harms_count() -> None:
    judged = judgement({64: 1.5}, {64: 1.0})
    choice = at_the_same_epochs(judged, epochs=None)
    assert "1.50x as fast as 32 at the same epochs" in choice.why
    (warning,) = choice.warnings
    assert "set `--epochs`" in warning
    assert at_the_same_epochs(judgement({64: 1.5}, {}), epochs=None).warnings == ()


def test_a_current_size_that_does_not_fit_is_said_to_be_replaced() -> None:
    choice = at_the_same_epochs(judgement({512: 0.9}, {512: 1.0}, reference=1024), batch_size=4096)
    assert choice.trial.batch_size == 1024
    assert choice.warnings == ("your batch size 4,096 can't be used; 1,024 stands for it in comparisons",)
    assert at_the_same_epochs(judgement({64: 1.5}, {64: 1.0}), batch_size=None).warnings == ()


@given(
    st.floats(0.1, 1e4),
    st.sets(st.sampled_from(SIZES), min_size=1),
    st.none() | st.sampled_from(SIZES),
    st.none() | st.just(Check(status=CheckStatus.NOT_RUN, detail="no time")),
)
def test_without_a_result_of_the_check_no_size_below_the_current_one_is_chosen(
    hardware_batch_size: float, sizes: set[int], current_size: int | None, measured: Check | None
) -> None:
    trials = affine(hardware_batch_size, sorted(sizes))
    described = workload(batch_size=current_size, epochs=10.0)
    choice = size_choice.choose(trials, trials, measured, Limits(), described, 1000)
    assert choice.trial.batch_size in sizes
    # A current size that was named is kept where the check had no result.
    is_kept = measured is not None and current_size is not None
    assert (choice.judgement is not None) == is_kept
    if is_kept and current_size in sizes:
        assert choice.trial.batch_size == current_size
    if any(size >= (current_size or USUAL_BATCH_SIZE) for size in sizes):
        assert choice.trial.batch_size >= (current_size or USUAL_BATCH_SIZE)
    elif not is_kept:
        assert choice.trial.batch_size == max(sizes)


def test_the_current_size_is_not_left_for_a_smaller_one_that_was_timed_better() -> None:
    """Where the budget ended after one step at the current size, its rounds are missing."""
    described = workload(batch_size=32, epochs=10.0)
    for rounds in (0, 1):
        trials = TrialSet((trial(8), trial(16), trial(32, 0.5, rounds=rounds)))
        assert size_choice.choose(trials, trials, None, Limits(), described, 1000).trial.batch_size == 32
    below = TrialSet((trial(8, 0.05), trial(16)))
    assert size_choice.choose(below, below, None, Limits(), described, 1000).trial.batch_size == 16


def test_a_row_that_looks_faster_than_the_answer_is_explained() -> None:
    trials = TrialSet((trial(8), trial(16, 0.05, rounds=1)))
    for choice in (size_choice.knee(trials), size_choice.highest_throughput(trials)):
        assert choice.trial.batch_size == 8
        assert len(choice.warnings) == 1
        assert choice.warnings[0].startswith("batch size 16 looked faster, by too few steps")
    assert size_choice.knee(TrialSet((trial(8), trial(16, 0.5, rounds=1)))).warnings == ()


def test_a_check_without_trainings_keeps_the_current_size() -> None:
    trials = affine(256)
    described = workload(batch_size=32, epochs=10.0)
    choice = size_choice.choose(trials, trials, check(1e6, batch_size=32), Limits(), described, 1000)
    assert choice.trial.batch_size == 32
    assert choice.why.startswith("no training shows the final loss of faster sizes")
    to_loss = Limits(objective=Objective.TIME_TO_LOSS)
    other = size_choice.choose(trials, trials, check(1e6, batch_size=32), to_loss, described, 1000)
    assert other.trial.batch_size > 32
    assert other.judgement is None


@pytest.mark.parametrize(("current", "kept"), [(32, 32), (48, 32), (4096, 1024), (None, 1024)])
def test_the_time_to_a_loss_of_a_check_without_a_result_keeps_the_current_size(
    current: int | None, kept: int
) -> None:
    trials = affine(1e6)
    to_loss = Limits(objective=Objective.TIME_TO_LOSS)
    unknown = Check(status=CheckStatus.NOT_RUN, detail="no time")
    described = workload(batch_size=current)
    choice = size_choice.choose(trials, trials, unknown, to_loss, described, 1000)
    assert choice.trial.batch_size == kept
    assert ("no check shows" in choice.why) is (current is not None)
    # Without a check, and of random inputs, throughput alone is asked for.
    assert size_choice.choose(trials, trials, None, to_loss, described, 1000).trial.batch_size == 1024
    random_inputs = replace(described, synthetic=True)
    assert size_choice.choose(trials, trials, unknown, to_loss, random_inputs, 1000).trial.batch_size == 1024


# The limit


def limit(
    trials: TrialSet,
    chosen: int,
    measured: Check | None = None,
    limited_by: LimitedBy = LimitedBy.MEMORY,
    permitted: TrialSet | None = None,
) -> AnswerLimit | None:
    return size_choice.limit(
        trials, permitted or trials, trials.latest[chosen], ceiling(SIZES[-1], limited_by), measured
    )


def test_larger_sizes_that_the_limits_exclude_mean_options() -> None:
    trials = affine(64)
    assert limit(trials, 64, permitted=trials.only(range(65))) is AnswerLimit.OPTIONS
    assert limit(trials, 32, permitted=trials.only(range(65))) is AnswerLimit.GENERALIZATION


@pytest.mark.parametrize(
    ("limited_by", "expected"),
    [
        (LimitedBy.MEMORY, AnswerLimit.MEMORY),
        (LimitedBy.SIZE_LIMIT, AnswerLimit.SIZE_LIMIT),
        (LimitedBy.PLATEAU, AnswerLimit.THROUGHPUT),
        (LimitedBy.DATASET, AnswerLimit.DATASET),
        (LimitedBy.BUDGET, AnswerLimit.OPTIONS),
        (LimitedBy.MAX_BATCH, AnswerLimit.OPTIONS),
    ],
)
def test_the_largest_size_is_limited_by_what_limits_the_climb(
    limited_by: LimitedBy, expected: AnswerLimit
) -> None:
    assert limit(affine(64), SIZES[-1], check(100.0), limited_by) is expected


def test_every_reason_to_stop_climbing_has_its_limit() -> None:
    for limited_by in LimitedBy:
        assert limit(affine(64), SIZES[-1], None, limited_by) in AnswerLimit


def test_a_larger_size_that_is_quicker_per_sample_is_held_back_by_generalization() -> None:
    assert limit(affine(1000), 64, check(100.0)) is AnswerLimit.GENERALIZATION


def test_a_larger_size_that_is_no_quicker_is_held_back_by_throughput() -> None:
    assert limit(affine(1), 64, check(100.0)) is AnswerLimit.THROUGHPUT


@pytest.mark.parametrize(
    ("rise", "expected"), [(1.04, AnswerLimit.THROUGHPUT), (1.06, AnswerLimit.GENERALIZATION)]
)
def test_five_percent_more_throughput_is_the_border(rise: float, expected: AnswerLimit) -> None:
    trials = TrialSet((trial(32, 0.1), trial(64, 0.2 / rise)))
    assert limit(trials, 32) is expected


def test_any_larger_size_that_is_quicker_means_that_throughput_is_not_the_limit() -> None:
    trials = TrialSet((trial(32, 0.1), trial(128, 0.2), trial(64, 0.2)))
    assert limit(trials, 32) is AnswerLimit.GENERALIZATION


@pytest.mark.parametrize("hardware_batch_size", [1, 1000])
def test_a_veto_right_above_is_the_limit(hardware_batch_size: float) -> None:
    measured = check(100.0, vetoed=(Veto(batch_size=128, reason="worse"),))
    assert limit(affine(hardware_batch_size), 64, measured) is AnswerLimit.VETO


def test_a_veto_further_above_is_none() -> None:
    measured = check(100.0, vetoed=(Veto(batch_size=128, reason="worse"),))
    assert limit(affine(1), 32, measured) is AnswerLimit.THROUGHPUT


def test_a_veto_of_a_smaller_size_is_no_limit() -> None:
    measured = check(100.0, vetoed=(Veto(batch_size=8, reason="the training diverged"),))
    assert limit(affine(1), 64, measured) is AnswerLimit.THROUGHPUT


def test_a_larger_size_without_a_speed_tells_nothing() -> None:
    trials = TrialSet((trial(32, 0.1), trial(64, 0.2, samples_per_second=None)))
    assert limit(trials, 32) is None


def test_the_gain_of_the_learning_rate_is_said_beside_that_of_the_size() -> None:
    judged = judgement({64: 1.5, 128: 2.0}, {64: 0.98, 128: 1.2})
    tried = replace(judged, rates={64: RateWalk(factor=3.0, next_factor=None, log_gain=0.03)})
    choice = at_the_same_epochs(tried)
    assert choice.why == (
        "1.50x as fast as 32 at your 10 epochs (90% CI 1.45 to 1.55), with an expected final loss within 2%; "
        "the learning rate that was tried lowers the final loss by 3%"
    )
    kept = replace(judgement({}, {}), rates={32: RateWalk(factor=2.0, next_factor=None, log_gain=0.05)})
    assert at_the_same_epochs(kept).why == (
        "no other size is more than 5% faster; the learning rate that was tried lowers the final loss by 5%"
    )

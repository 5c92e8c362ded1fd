"""Two results compared: the cause of another answer, each size, and the facts that differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from autobatch.decision.comparison import compare_results
from autobatch.decision.recommender import recommend
from autobatch.records.check import Check, CheckStatus
from autobatch.records.comparison import Cause
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome
from tests import builders
from tests.strategies import recommendations

SIZES = tuple(2**power for power in range(3, 10))


def result(critical: float = 1000.0, hardware: float = 64.0, **fields: object) -> Recommendation:
    """The time-to-loss answer for a critical batch size and a hardware batch size."""
    curve = builders.curve(builders.affine_trials(hardware, SIZES))
    limits = Limits(objective=Objective.TIME_TO_LOSS)
    answer = recommend(curve, builders.check(critical, log_sd=0.1), limits)
    return replace(answer, **fields)  # type: ignore[arg-type]


def test_the_same_result_twice_has_no_cause_and_no_difference() -> None:
    compared = compare_results(result(), result())
    assert compared.batch_sizes[0] == compared.batch_sizes[1]
    assert compared.causes == compared.differences == ()
    assert all(size.speed_ratio == 1 and not size.beyond_noise for size in compared.sizes)


def test_another_check_is_the_cause() -> None:
    compared = compare_results(result(critical=30), result(critical=20_000))
    assert compared.batch_sizes[0] < compared.batch_sizes[1]
    assert compared.causes == (Cause.CHECK,)
    assert [difference.name for difference in compared.differences] == ["critical batch size"]


def test_another_speed_is_the_cause() -> None:
    compared = compare_results(result(hardware=8), result(hardware=512))
    assert compared.batch_sizes[0] < compared.batch_sizes[1]
    assert compared.causes == (Cause.TRIALS,)


def test_other_limits_are_the_cause() -> None:
    before = result()
    after = recommend(before.curve, before.check, Limits(objective=Objective.MEMORY))
    compared = compare_results(before, after)
    assert compared.causes == (Cause.LIMITS,)
    (difference,) = compared.differences
    assert (difference.name, difference.before, difference.after) == ("objective", "time-to-loss", "memory")


def test_an_older_result_can_not_be_explained() -> None:
    compared = compare_results(result(critical=30, decidable=False), result(critical=20_000))
    assert not compared.explained
    assert compared.causes == ()


def test_the_earlier_answer_has_its_price_by_the_later_measurements() -> None:
    before, after = result(critical=30), result(critical=20_000)
    time = compare_results(before, after).relative_time
    expected = next(row for row in after.candidates if row.batch_size == before.batch_size)
    assert time == expected.relative_time > 1


@pytest.mark.parametrize(("spread", "apart"), [(0.01, True), (0.5, False)])
def test_speeds_are_told_apart_by_their_intervals(spread: float, apart: bool) -> None:
    def measured(rate: float) -> Recommendation:
        interval = (rate * (1 - spread), rate * (1 + spread))
        trial = builders.trial(8, 8 / rate, samples_per_second_interval=interval)
        return recommend(builders.curve([trial]))

    (size,) = compare_results(measured(100), measured(120)).sizes
    assert size.speed_ratio == pytest.approx(1.2)
    assert size.beyond_noise is apart


def test_a_size_that_one_result_lacks_or_that_failed_in_it() -> None:
    before = recommend(builders.curve([builders.trial(8), builders.failed_trial(16)]))
    after = recommend(builders.curve([builders.trial(4), builders.trial(8), builders.trial(16)]))
    four, _, sixteen = compare_results(before, after).sizes
    assert four.outcomes == (None, Outcome.OK)
    assert sixteen.outcomes == (Outcome.OUT_OF_MEMORY, Outcome.OK)
    assert four.speed_ratio is sixteen.speed_ratio is None


def test_a_check_without_a_result_differs_from_none_in_nothing() -> None:
    plain = recommend(builders.curve([builders.trial(8)]))
    unrun = replace(plain, check=Check(status=CheckStatus.NOT_RUN, detail="no time"))
    assert compare_results(plain, unrun).differences == ()


@settings(max_examples=30, deadline=None)
@given(recommendations(), recommendations())
def test_any_two_results_can_be_compared(before: Recommendation, after: Recommendation) -> None:
    compared = compare_results(before, after)
    assert compared.batch_sizes == (before.batch_size, after.batch_size)
    assert [size.batch_size for size in compared.sizes] == sorted(
        {trial.batch_size for trial in (*before.trials, *after.trials)}
    )

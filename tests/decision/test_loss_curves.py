"""Loss curves: steps to one loss by the law, and the larger sizes that trained worse."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.loss_curves import Matched, best_of_each, match, sound, why_worse
from autobatch.records.check import Training
from autobatch.records.trial import Outcome
from tests.builders import training

SIZES = tuple(2**k for k in range(1, 12))
PARTS = 8


def trained(
    size: int,
    steps: int,
    loss: Callable[[int], float],
    noise: Callable[[int], float] = lambda part: 1.0,
    parts: int = PARTS,
) -> Training:
    """A training whose loss after some steps is given; `noise` multiplies that of a part each time."""
    return training(
        size, steps, lambda at: [loss(at) * noise(part) for part in range(parts)], step_seconds=2.0
    )


def by_the_law(
    size: int, critical: float, power: float = 0.5, early: float = 5.0, floor: float = 0.0
) -> Callable[[int], float]:
    """steps(loss) = S_min(loss) (1 + B_crit / B), with an S_min of its own at every loss."""
    return lambda at: floor + (1 + at / (1 + critical / size) / early) ** -power


def along_the_law(size: int, critical: float, steps: int, **shape: float) -> Training:
    return trained(size, steps, by_the_law(size, critical, **shape))


def flat(loss: float, size: int = 32, steps: int = 100, parts: int = PARTS) -> Training:
    return trained(size, steps, lambda at: loss, parts=parts)


def ended(outcome: Outcome, size: int = 64, detail: str = "") -> Training:
    return replace(flat(1.0, size, 17), outcome=outcome, detail=detail)


def spread_over_the_minimum(found: Matched, critical: float) -> float:
    """How far ln(S_min) differs between the sizes: 0 where their ratios are those of the law."""
    logs = [math.log(steps / (1 + critical / size)) for size, steps in found.steps]
    return max(logs) - min(logs)


def log_ratio_error(found: Matched, size: int, other: int, critical: float) -> float:
    steps = dict(found.steps)
    true = (1 + critical / size) / (1 + critical / other)
    return math.log(steps[size] / steps[other] / true)


# Steps to one loss


@settings(max_examples=200, deadline=None)
@given(
    critical=st.floats(1.0, 10_000.0),
    sizes=st.lists(st.sampled_from(SIZES), min_size=2, max_size=4, unique=True),
    progress=st.floats(20.0, 400.0),
    further=st.lists(st.floats(1.0, 3.0), min_size=4, max_size=4),
    power=st.floats(0.1, 1.5),
    early=st.floats(1.0, 50.0),
    floor=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_the_ratios_of_the_law_are_recovered(
    critical: float,
    sizes: list[int],
    progress: float,
    further: list[float],
    power: float,
    early: float,
    floor: float,
) -> None:
    trainings = [
        along_the_law(
            size,
            critical,
            max(40, int(progress * more * (1 + critical / size))),
            power=power,
            early=early,
            floor=floor,
        )
        for size, more in zip(sizes, further, strict=False)
    ]
    found = match(trainings)
    assert found is not None
    assert {size for size, _ in found.steps} >= set(sizes) or len(sizes) == 4
    assert len(found.steps) >= min(len(sizes), 3)
    assert spread_over_the_minimum(found, critical) < 0.04


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("sizes", [(32, 128), (32, 64, 512)])
def test_mild_noise_leaves_them_unbiased(noise: float, sizes: tuple[int, ...]) -> None:
    draw, errors = random.Random(1), []
    for _ in range(200):
        trainings = [
            trained(
                size,
                400 * 256 // (256 + size),
                by_the_law(size, 200.0),
                lambda part: draw.lognormvariate(0.0, noise),
            )
            for size in sizes
        ]
        found = match(trainings)
        assert found is not None
        errors.append(log_ratio_error(found, sizes[0], sizes[-1], 200.0))
    assert abs(fmean(errors)) < 0.03
    # The noise of an evaluation over the slope of the loss, and no more than that.
    assert stdev(errors) < 2 * noise / math.sqrt(PARTS) * 2
    assert max(map(abs, errors)) < 0.3


@settings(max_examples=50, deadline=None)
@given(st.permutations([32, 64, 256]), st.floats(0.01, 100.0))
def test_neither_the_order_nor_the_unit_of_the_loss_matters(sizes: list[int], unit: float) -> None:
    def matched(order: Sequence[int], times: float) -> Matched:
        found = match(
            [trained(size, 200, lambda at, size=size: times * by_the_law(size, 90.0)(at)) for size in order]
        )
        assert found is not None
        return found

    one, other = matched((32, 64, 256), 1.0), matched(sizes, unit)
    assert other.loss == pytest.approx(unit * one.loss)
    assert dict(other.steps) == pytest.approx(dict(one.steps))
    assert dict(other.seconds) == pytest.approx(dict(one.seconds))


def test_one_lucky_evaluation_is_not_where_a_loss_was_reached() -> None:
    """It counts as a third of itself, beside its neighbours."""

    def lucky(at: int) -> float:
        return by_the_law(64, 100.0)(at) * (0.7 if at == 58 else 1.0)

    own, other = along_the_law(32, 100.0, 300), trained(64, 300, lucky)
    assert 58 in [one.steps for one in other.evaluations]
    found = match([own, other])
    assert found is not None
    assert abs(log_ratio_error(found, 32, 64, 100.0)) < 0.1


def test_seconds_are_those_to_the_lowest_common_loss() -> None:
    one, other = along_the_law(32, 300.0, 300), along_the_law(256, 300.0, 300)
    found = match([one, other])
    assert found is not None
    assert found.loss == pytest.approx(fmean(one.evaluations[-1].losses), rel=0.2)
    seconds = dict(found.seconds)
    assert 300 < seconds[32] <= 2 * 300
    assert seconds[32] / seconds[256] == pytest.approx((1 + 300 / 32) / (1 + 300 / 256), rel=0.1)


def test_steps_and_seconds_are_to_the_same_loss() -> None:
    found = match([along_the_law(32, 300.0, 300), along_the_law(256, 300.0, 300)])
    assert found is not None
    assert dict(found.steps)[32] == pytest.approx(dict(found.seconds)[32] / 2, rel=0.1)


def test_curves_that_do_not_fall_give_nothing() -> None:
    assert match([flat(1.0, 32), flat(1.0, 64)]) is None
    rising = [trained(size, 100, lambda at: 1 + at / 10) for size in (32, 64, 128)]
    assert match(rising) is None


def test_one_training_alone_gives_nothing() -> None:
    assert match([]) is None
    assert match([along_the_law(32, 100.0, 100)]) is None
    assert match([along_the_law(32, 100.0, 100), along_the_law(32, 100.0, 90)]) is None


def test_curves_of_which_one_is_there_from_the_start_give_nothing() -> None:
    """A size that begins below what the other ends at tells nothing about steps."""
    assert match([trained(32, 60, lambda at: 3 - at / 100), flat(1.0, 64)]) is None


def test_a_size_too_slow_is_left_out_where_three_others_get_there() -> None:
    quick = [along_the_law(size, 100.0, 300) for size in (32, 64, 128)]
    slow = trained(1024, 300, lambda at: 1 - at / 10_000)
    found = match([*quick, slow])
    assert found is not None
    assert {size for size, _ in found.steps} == {32, 64, 128}
    assert found == match(quick)
    assert spread_over_the_minimum(found, 100.0) < 0.04


def test_a_size_too_slow_holds_back_two_others() -> None:
    quick = [along_the_law(size, 100.0, 300) for size in (32, 64)]
    short = along_the_law(128, 100.0, 40)
    found = match([*quick, short])
    assert found is not None
    assert {size for size, _ in found.steps} == {32, 64, 128}
    assert dict(found.steps)[128] <= 40


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.OK])
def test_trainings_that_failed_are_ignored(outcome: Outcome) -> None:
    good = [along_the_law(size, 100.0, 200) for size in (32, 64)]
    fine = along_the_law(128, 100.0, 400)
    failed = replace(fine, outcome=outcome)
    assert match([*good, failed]) == match(good)
    assert match([*good, replace(failed, evaluations=())]) == match(good)
    assert match([good[0], failed]) is None


def test_the_training_that_ends_lowest_counts() -> None:
    own, bad, good = (along_the_law(size, 100.0, 200) for size in (32, 64, 64))
    bad = replace(bad, learning_rate_factor=2.0, outcome=Outcome.DIVERGED)
    assert best_of_each([own, bad, good]) == {32: own, 64: good}
    assert match([own, bad, good]) == match([own, good, bad]) == match([own, good])
    high, low = flat(1.0, 64), flat(0.9, 64)
    assert best_of_each([high, low]) == best_of_each([low, high]) == {64: low}
    gentler = replace(low, learning_rate_factor=0.5)
    assert best_of_each([low, gentler]) == {64: gentler}, "as good with a lower learning rate"


def test_a_training_without_evaluations_is_ignored() -> None:
    good = [along_the_law(size, 100.0, 200) for size in (32, 64)]
    assert match([*good, replace(good[0], batch_size=128, evaluations=())]) == match(good)


# Larger sizes that trained worse


def test_a_training_that_diverged_is_worse() -> None:
    assert why_worse(flat(1.0), ended(Outcome.DIVERGED)) == "the training diverged after 17 steps"


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.TIMEOUT])
def test_a_training_that_failed_is_worse_in_its_own_words(outcome: Outcome) -> None:
    assert "IndexError: no row 5" in why_worse(flat(1.0), ended(outcome, detail="IndexError: no row 5"))
    words = str(outcome).replace("_", " ")
    assert words in why_worse(flat(1.0), ended(outcome))


def test_even_a_smaller_size_is_worse_where_it_diverged_or_failed() -> None:
    for outcome in (Outcome.DIVERGED, Outcome.FAILED):
        assert why_worse(flat(1.0), ended(outcome, size=8))


def test_twelve_percent_more_loss_is_worse_and_five_is_not() -> None:
    reason = why_worse(flat(1.0), flat(1.12, 64))
    assert reason == "loss 1.12 against 1 at 32 after 70 steps each"
    assert why_worse(flat(1.0), flat(1.05, 64)) == ""
    assert why_worse(flat(1.0), flat(0.5, 64)) == ""


def test_a_single_part_is_judged_by_its_gap_alone() -> None:
    assert why_worse(flat(1.0, parts=1), flat(1.12, 64, parts=1))
    assert not why_worse(flat(1.0, parts=1), flat(1.09, 64, parts=1))


def test_a_spread_between_the_parts_protects() -> None:
    """12% worse on average: the same on every part, or by parts that contradict each other."""
    own = flat(1.0)

    def gaps(*logs: float) -> Training:
        return trained(64, 100, lambda at: 1.0, lambda part: math.exp(logs[part]))

    assert why_worse(own, gaps(*[0.11, 0.13] * 4))
    assert not why_worse(own, gaps(*[0.5, -0.26] * 4))


def test_parts_that_differ_in_both_trainings_do_not_protect() -> None:
    """Hard samples are hard at both sizes: what counts is how the parts' losses compare."""
    levels = [0.1, 5.0, 1.0, 30.0, 0.7, 2.0, 0.01, 9.0]
    own = trained(32, 100, lambda at: 1.0, levels.__getitem__)
    assert why_worse(own, trained(64, 100, lambda at: 1.12, levels.__getitem__))
    assert not why_worse(own, trained(64, 100, lambda at: 1.05, levels.__getitem__))


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 32), loss=st.floats(0.1, 1e6))
def test_no_smaller_size_is_worse_for_its_loss(size: int, loss: float) -> None:
    assert why_worse(flat(1.0, 32), flat(loss, size)) == ""


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_losses_that_are_not_positive_are_not_judged(loss: float) -> None:
    assert why_worse(flat(loss), flat(5.0, 64)) == ""
    assert why_worse(flat(1.0), flat(loss, 64)) == ""
    one_part = trained(32, 100, lambda at: 1.0, lambda part: loss if part == 3 else 1.0)
    assert why_worse(one_part, flat(5.0, 64)) == ""


def test_fewer_than_twelve_common_steps_are_not_judged() -> None:
    assert why_worse(flat(1.0, 32, 300), flat(9.0, 64, 11)) == ""
    assert why_worse(flat(1.0, 32, 11), flat(9.0, 64, 300)) == ""
    assert why_worse(flat(1.0, 32, 11), flat(9.0, 64, 11)) == ""
    assert why_worse(flat(1.0, 32, 300), flat(9.0, 64, 12))


def test_only_what_both_did_counts() -> None:
    """A larger size makes fewer steps: what its rival did with more of them is no reproach."""
    falling = trained(32, 1000, lambda at: 1 / at)
    assert why_worse(falling, trained(512, 40, lambda at: 1 / at)) == ""
    assert why_worse(falling, trained(512, 40, lambda at: 1.2 / at))


def test_it_is_the_end_that_counts() -> None:
    """A larger learning rate may begin badly, and one that is too large may begin well."""
    own = trained(32, 100, lambda at: at**-0.5)
    begins_badly = trained(64, 100, lambda at: (5.0 if at < 50 else 0.9) * at**-0.5)
    begins_well = trained(64, 100, lambda at: (0.5 if at < 50 else 1.3) * at**-0.5)
    assert why_worse(own, begins_badly) == ""
    assert why_worse(own, begins_well)


def test_trainings_with_other_parts_are_not_judged() -> None:
    assert why_worse(flat(1.0, parts=4), flat(9.0, 64, parts=8)) == ""


def test_trainings_without_evaluations_are_not_judged() -> None:
    assert why_worse(replace(flat(1.0), evaluations=()), flat(9.0, 64)) == ""
    assert why_worse(flat(1.0), replace(flat(9.0, 64), evaluations=())) == ""


def test_what_is_sound_is_the_best_of_each_size_without_those_that_are_worse() -> None:
    own, small, large = flat(1.0), flat(5.0, 8), flat(0.9, 64)
    bad, diverged = flat(1.5, 128), ended(Outcome.DIVERGED, 256)
    assert sound(32, [own, small, large, bad, diverged]) == [own, small, large]
    assert sound(32, [own, replace(large, outcome=Outcome.FAILED), large]) == [own, large]
    assert sound(32, [own, large, replace(large, outcome=Outcome.FAILED)]) == [own, large]
    assert sound(32, []) == []


def test_without_a_training_to_compare_with_all_are_sound() -> None:
    assert sound(32, [flat(5.0, 64), flat(9.0, 128)]) == [flat(5.0, 64), flat(9.0, 128)]


# How often it errs


def noisy(draw: random.Random, spread: float, again: float) -> Callable[[int], float]:
    """Each part is off by the same factor all along a training, and by another at each evaluation."""
    offsets = [draw.lognormvariate(0.0, spread) for _ in range(PARTS)]
    return lambda part: offsets[part] * draw.lognormvariate(0.0, again)


def healthy_pair(draw: random.Random, spread: float, critical: float) -> tuple[Training, Training]:
    size = draw.choice([16, 32, 64])
    larger = size * draw.choice([2, 4, 8])
    steps = draw.randint(40, 400)
    own = trained(size, steps, by_the_law(size, critical), noisy(draw, spread, spread / 3))
    fewer = max(12, steps // draw.choice([1, 2, 3]))
    return own, trained(larger, fewer, by_the_law(larger, critical), noisy(draw, spread, spread / 3))


def test_at_most_one_of_twenty_healthy_pairs_is_vetoed() -> None:
    draw = random.Random(2)
    vetoed = 0
    for _ in range(400):
        own, other = healthy_pair(draw, draw.uniform(0.1, 0.3), math.exp(draw.uniform(2.0, 8.0)))
        vetoed += bool(why_worse(own, other))
    assert vetoed <= 20


def test_no_more_are_where_a_larger_batch_brings_nothing() -> None:
    """The hardest case: far above the critical batch size, losses at equal steps are equal.

    4.7% are vetoed in the long run.
    """
    draw = random.Random(3)
    vetoed = sum(
        bool(why_worse(*healthy_pair(draw, draw.uniform(0.1, 0.3), critical=0.0))) for _ in range(1000)
    )
    assert vetoed <= 60


def pair_with_too_high_a_rate(draw: random.Random, spread: float) -> tuple[Training, Training]:
    """Half as much loss again at the larger size, on parts that are easy or hard for both."""
    levels = [draw.lognormvariate(0.0, 0.3) for _ in range(PARTS)]
    own_noise, other_noise = (noisy(draw, spread, spread / 3) for _ in range(2))
    loss = by_the_law(32, 500.0)
    own = trained(32, 200, loss, lambda part: levels[part] * own_noise(part))
    return own, trained(256, 80, lambda at: 1.5 * loss(at), lambda part: levels[part] * other_noise(part))


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.1])
def test_a_learning_rate_far_too_high_is_always_found(spread: float) -> None:
    draw = random.Random(4)
    for _ in range(200):
        own, other = pair_with_too_high_a_rate(draw, spread)
        assert why_worse(own, other)
        assert why_worse(own, replace(other, outcome=Outcome.DIVERGED, evaluations=other.evaluations[:2]))


def test_a_size_that_learns_nothing_where_the_own_one_does_is_rejected() -> None:
    """Also where the own one had learned nothing either by then: it is the time that counts."""
    own = trained(32, 600, lambda at: 2.3 if at < 150 else 2.3 * (150 / at) ** 0.5)
    stuck = trained(256, 100, lambda at: 2.31)
    assert "did not fall in 100 steps" in why_worse(own, stuck)
    assert why_worse(stuck, trained(512, 60, lambda at: 2.31)) == ""
    assert why_worse(own, trained(256, 6, lambda at: 2.31)) == "", "too few steps to tell"


def test_a_size_that_ends_lower_in_the_same_time_is_not_rejected() -> None:
    """Its loss was lower at the first evaluation already, so it fell by less from there on."""
    own = along_the_law(32, 320.0, 130, early=50.0)
    other = along_the_law(128, 320.0, 43, early=50.0)
    assert fmean(other.evaluations[-1].losses) < fmean(own.evaluations[-1].losses)
    assert why_worse(own, other) == ""


def test_no_more_are_vetoed_where_the_loss_falls_slowly() -> None:
    """By the law without noise: at equal steps, no larger size is worse than the own one."""
    draw = random.Random(6)
    vetoed = 0
    for _ in range(400):
        size, steps = draw.choice([16, 32, 64]), draw.randint(40, 400)
        larger, critical = size * draw.choice([2, 4, 8]), size * draw.uniform(0.5, 10.0)
        own = along_the_law(size, critical, steps, early=100.0)
        vetoed += bool(why_worse(own, along_the_law(larger, critical, max(12, steps // 3), early=100.0)))
    assert vetoed <= 20

"""The law of time over batch size: recovered from noisy measurements, and right where it decides."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from autobatch.decision import critical_batch
from autobatch.decision.critical_batch import Belief
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from tests.builders import affine_law, critical_batch_size

SIZES = tuple(2**i for i in range(13))

criticals = st.floats(1.0, 1e5)
hardware = st.floats(0.5, 4096.0)
spreads = st.floats(0.0, 1.5)


def affine(hardware_batch_size: float, sizes: tuple[int, ...] = SIZES) -> StepTimeLaw:
    return affine_law(hardware_batch_size, sizes)


def known(batch_size: float) -> Belief:
    return Belief(critical=(batch_size,), weights=(1.0,))


# The belief in the critical batch size


@pytest.mark.parametrize("true", [20.0, 150.0, 1200.0])
def test_noisy_steps_at_a_few_sizes_recover_it(true: float) -> None:
    draw = random.Random(int(true))
    sizes = [max(1, round(true * factor)) for factor in (1 / 8, 1 / 2, 2, 8)]
    hits = 0
    for _ in range(200):
        observed = [(size, 500 * (1 + true / size) * math.exp(draw.gauss(0, 0.1))) for size in sizes]
        guess = true * math.exp(draw.gauss(0, 1.0))
        belief = critical_batch.posterior(critical_batch_size(guess, 2.0), observed)
        hits += 1 / 1.5 < belief.batch_size / true < 1.5
        low, high = belief.interval
        assert low < belief.batch_size < high
    assert hits >= 180


def test_without_trials_the_belief_is_the_critical_batch_size() -> None:
    belief = critical_batch.posterior(critical_batch_size(190.0, 0.8))
    assert belief.batch_size == pytest.approx(190, rel=0.02)
    assert belief.log_sd == pytest.approx(0.8, rel=0.01)
    assert belief.interval[1] == pytest.approx(190 * math.exp(1.645 * 0.8), rel=0.05)
    assert sum(belief.weights) == pytest.approx(1)
    assert critical_batch.posterior(critical_batch_size(190.0, 0.8), [(32, 700.0)]) == belief


@settings(max_examples=50, deadline=None, derandomize=True)
@given(minimum=st.floats(1, 1e6))
def test_the_unit_of_the_steps_cancels_out(minimum: float) -> None:
    observed = [(16, 10.0), (64, 4.0), (256, 2.5)]
    scaled = [(size, minimum * steps) for size, steps in observed]
    prior = critical_batch_size(100.0, 1.0)
    first, other = (critical_batch.posterior(prior, steps) for steps in (observed, scaled))
    assert other.batch_size == pytest.approx(first.batch_size, rel=1e-6)


def test_a_lower_bound_alone_is_a_flat_prior_above_it() -> None:
    unknown = CriticalBatchSize(batch_size=math.inf, low=500.0, high=math.inf, log_sd=math.inf)
    belief = critical_batch.posterior(unknown)
    assert belief.quantile(0.0) == pytest.approx(500.0)
    assert 1000 < belief.batch_size < 10_000
    with pytest.raises(ValueError, match="nothing is known"):
        critical_batch.posterior(
            CriticalBatchSize(batch_size=math.inf, low=0.0, high=math.inf, log_sd=math.inf)
        )


# The choice


@settings(max_examples=200, deadline=None, derandomize=True)
@given(critical=criticals, hardware_batch_size=hardware)
def test_the_best_power_of_two_is_near_the_optimum(critical: float, hardware_batch_size: float) -> None:
    optimum = math.sqrt(critical * hardware_batch_size)
    assume(SIZES[0] <= optimum <= SIZES[-1])
    times = affine(hardware_batch_size)
    best = critical_batch.relative_time(optimum, critical, times)
    chosen = critical_batch.best_size(SIZES, critical, times)
    assert critical_batch.relative_time(chosen, critical, times) <= 1.035 * best
    assert abs(math.log2(chosen / optimum)) <= 0.5 + 1e-6


@settings(max_examples=200, deadline=None, derandomize=True)
@given(critical=criticals, hardware_batch_size=hardware, current=st.sampled_from(SIZES))
def test_a_tie_costs_no_more_than_the_tolerance(
    critical: float, hardware_batch_size: float, current: int
) -> None:
    times = affine(hardware_batch_size)
    least = min(critical_batch.relative_time(size, critical, times) for size in SIZES)
    choice = critical_batch.pick(SIZES, known(critical), times, current_size=current)
    assert all(
        critical_batch.relative_time(size, critical, times) <= (1.05 + 1e-9) * least for size in choice.tied
    )
    assert choice.batch_size == current or current not in choice.tied
    assert choice.batch_size in choice.tied


def noisy(hardware_batch_size: float, noise: float, draws: random.Random) -> StepTimeLaw:
    """Seven rounds of each size, and a drift of a third of their noise from size to size."""
    return fit_step_time(
        SIZES[:12],
        [
            [
                exact * math.exp(draws.gauss(0, noise) + drift)
                for drift in [draws.gauss(0, noise / 3)]
                for _ in range(7)
            ]
            for exact in (1e-3 * (1 + size / hardware_batch_size) for size in SIZES[:12])
        ],
    )


def picked(noise: float, seed: int) -> tuple[list[int], list[int], float]:
    """What is chosen and what looks best in a flat valley, and the true best time, on a machine so noisy."""
    draws = random.Random(seed)
    choices = [critical_batch.pick(SIZES[:12], known(10.0), noisy(800.0, noise, draws)) for _ in range(200)]
    return (
        [choice.batch_size for choice in choices],
        [choice.best for choice in choices],
        min(critical_batch.relative_time(size, 10.0, affine(800.0)) for size in SIZES),
    )


def test_noise_moves_the_choice_less_than_what_looks_best() -> None:
    chosen, best, least = picked(noise=0.3, seed=0)

    def excess(sizes: list[int]) -> float:
        return fmean(critical_batch.relative_time(size, 10.0, affine(800.0)) for size in sizes) / least - 1

    def scatter(sizes: list[int]) -> float:
        return stdev(math.log2(size) for size in sizes)

    assert scatter(chosen) < 0.85 * scatter(best)
    assert excess(chosen) < 0.8 * excess(best)


def test_with_little_noise_what_looks_best_is_chosen() -> None:
    chosen, best, _ = picked(noise=0.0, seed=0)
    assert chosen == best


@settings(max_examples=200, deadline=None, derandomize=True)
@given(critical=criticals, hardware_batch_size=hardware, factor=st.floats(1.0, 50.0))
@example(critical=1.0, hardware_batch_size=1.0, factor=1.0)
def test_the_best_size_grows_with_both_scales(
    critical: float, hardware_batch_size: float, factor: float
) -> None:
    best = critical_batch.best_size(SIZES, critical, affine(hardware_batch_size))
    # A hair's breadth, so that rounding does not decide between equals.
    factor *= 1 + 1e-6
    assert critical_batch.best_size(SIZES, factor * critical, affine(hardware_batch_size)) >= best
    assert critical_batch.best_size(SIZES, critical, affine(factor * hardware_batch_size)) >= best


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    critical=criticals,
    log_sd=spreads,
    hardware_batch_size=hardware,
    ceiling=st.integers(1, 5000),
    own=st.one_of(st.none(), st.integers(1, 10_000)),
)
def test_a_size_that_was_measured_and_fits(
    critical: float,
    log_sd: float,
    hardware_batch_size: float,
    ceiling: int,
    own: int | None,
) -> None:
    belief = critical_batch.posterior(critical_batch_size(critical, log_sd))
    below = [size for size in SIZES if size <= ceiling]
    choice = critical_batch.pick(
        SIZES,
        belief,
        affine(hardware_batch_size),
        current_size=own,
        within=below,
    )
    assert choice.batch_size in choice.tied
    assert set(choice.tied) <= set(below)


def test_without_a_size_there_is_no_choice() -> None:
    with pytest.raises(ValueError, match="no size"):
        critical_batch.pick((8, 16), known(100.0), affine(64), within=())


def bumpy(bump: float, noise: float) -> StepTimeLaw:
    """Sizes at equal cost for a critical batch size of 0, but for the one in the middle."""
    costs = {32: 1.0, 64: 1.0 + bump, 128: 1.0}
    return StepTimeLaw(
        a_seconds=1e-3,
        b_seconds_per_sample=0.0,
        relative_error=0.0,
        sizes=tuple(costs),
        step_seconds=tuple(1e-3 * cost for cost in costs.values()),
        corrections=tuple(math.log(cost) for cost in costs.values()),
        noise=noise,
    )


@pytest.mark.parametrize(
    ("bump", "noise", "tied"),
    [(0.03, 0.02, True), (0.045, 0.02, True), (0.055, 0.02, False), (0.055, 0.3, False)],
)
def test_the_middle_is_taken_only_if_it_is_tied(bump: float, noise: float, tied: bool) -> None:
    choice = critical_batch.pick((32, 64, 128), known(1e-9), bumpy(bump, noise))
    assert (choice.batch_size == 64) == tied
    assert choice.best in (32, 128)


def test_the_middle_is_that_of_all_sizes_even_where_some_may_not_be_chosen() -> None:
    flat = bumpy(0.0, 0.05)
    assert critical_batch.pick((32, 64, 128), known(1e-9), flat, within=(32, 64)).batch_size == 64
    assert critical_batch.pick((32, 64, 128), known(1e-9), flat, within=(32,)).batch_size == 32


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    critical=criticals, hardware_batch_size=hardware, factor=st.floats(1.0, 32.0), size=st.sampled_from(SIZES)
)
def test_the_bound_holds_inside_the_interval_and_keeps_to_the_formula(
    critical: float, hardware_batch_size: float, factor: float, size: int
) -> None:
    times = affine(hardware_batch_size)
    bound = critical_batch.regret_bound(size, SIZES, (critical, critical * factor), times)
    for share in (0.0, 0.3, 0.7, 1.0):
        inside = critical * factor**share
        best = min(critical_batch.relative_time(one, inside, times) for one in SIZES)
        assert critical_batch.relative_time(size, inside, times) / best <= bound * (1 + 1e-9)
    for end in (critical, critical * factor):
        off = size / math.sqrt(end * hardware_batch_size)
        exact = critical_batch.regret_bound(size, SIZES, (end, end), times)
        assert exact <= (off + 1 / off + 2) / 4 + 1e-6


def test_an_open_interval_compares_throughput_at_its_end() -> None:
    times = affine(64)
    bound = critical_batch.regret_bound(64, SIZES, (100.0, math.inf), times)
    top = SIZES[-1]
    assert bound == pytest.approx((times.step_seconds_at(64) / 64) / (times.step_seconds_at(top) / top))
    assert critical_batch.best_size(SIZES, math.inf, times) == top


@settings(max_examples=100, deadline=None, derandomize=True)
@given(critical=criticals, log_sd=spreads, hardware_batch_size=hardware, own=st.sampled_from(SIZES))
def test_candidates_are_few_and_hold_the_best_and_the_own(
    critical: float, log_sd: float, hardware_batch_size: float, own: int
) -> None:
    times = affine(hardware_batch_size)
    belief = critical_batch.posterior(critical_batch_size(critical, log_sd))
    found = critical_batch.candidates(SIZES, belief, times, own)
    assert len(found) <= 4
    assert own in found
    assert critical_batch.best_size(SIZES, belief.batch_size, times) in found
    assert list(found) == sorted(found)


def test_a_size_that_was_not_measured_is_no_candidate() -> None:
    assert 48 not in critical_batch.candidates(
        SIZES, critical_batch.posterior(critical_batch_size(100.0, 0.8)), affine(64), 48
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    critical=criticals, hardware_batch_size=hardware, steps=st.integers(1, 16), size=st.sampled_from(SIZES)
)
def test_accumulation_never_saves_time(
    critical: float, hardware_batch_size: float, steps: int, size: int
) -> None:
    times = affine(hardware_batch_size)
    plain = critical_batch.relative_time(size, critical, times)
    assert critical_batch.accumulated_time(size, steps, critical, times) >= plain * (1 - 1e-12)
    assert critical_batch.accumulated_time(size, 1, critical, times) == plain


# What follows from the size


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    critical=st.floats(0.0, 1e6),
    own=st.integers(1, 4096),
    size=st.integers(1, 4096),
    power=st.sampled_from([0.5, 1.0]),
)
def test_the_learning_rate_keeps_between_the_flat_and_the_linear_rule(
    critical: float, own: int, size: int, power: float
) -> None:
    rate = critical_batch.scaled_learning_rate(0.1, own, size, critical, power)
    linear = 0.1 * (size / own) ** power
    assert min(0.1, linear) * (1 - 1e-9) <= rate <= max(0.1, linear) * (1 + 1e-9)
    back = critical_batch.scaled_learning_rate(rate, size, own, critical, power)
    assert back == pytest.approx(0.1, rel=1e-9)


def test_the_learning_rate_by_known_cases() -> None:
    """axolotl-ai-cloud/axolotl 1885: the learning rate doesn't follow the recommended size."""
    assert critical_batch.scaled_learning_rate(0.1, 32, 64, math.inf, 1.0) == pytest.approx(0.2)
    assert critical_batch.scaled_learning_rate(0.1, 32, 64, math.inf, 0.5) == pytest.approx(
        0.1 * math.sqrt(2)
    )
    assert critical_batch.scaled_learning_rate(0.1, 32, 64, 64.0, 1.0) == pytest.approx(0.15)
    # SGD's gain saturates at 1 + B_crit / B0, Adam's rate is flat from the critical batch size on.
    assert critical_batch.scaled_learning_rate(0.1, 32, 10**9, 64.0, 1.0) == pytest.approx(0.3, rel=1e-6)
    at_critical = critical_batch.scaled_learning_rate(0.1, 32, 64, 64.0, 0.5)
    assert critical_batch.scaled_learning_rate(0.1, 32, 4096, 64.0, 0.5) == at_critical


def test_epochs_follow_from_steps() -> None:
    assert critical_batch.epochs_ratio(32, 256, 96.0) == pytest.approx((256 + 96) / (32 + 96))
    assert critical_batch.epochs_ratio(32, 256, math.inf) == 1.0


def test_a_half_life_in_samples_is_kept() -> None:
    scaled = critical_batch.kept_half_life(0.999, 32, 256)
    assert math.log(2) / -math.log(scaled) * 256 == pytest.approx(math.log(2) / -math.log(0.999) * 32)


@pytest.mark.parametrize(
    ("optimizer", "power"),
    [
        ("SGD", 1.0),
        ("AdamW", 0.5),
        ("Adam and SparseAdam", 0.5),
        ("Adam and Adam", 0.5),
        ("SGD and SGD and SGD", 1.0),
        ("SGD and Adam", None),
        ("Adam and Adafactor", None),
        ("Adafactor", None),
    ],
)
def test_several_optimizers_follow_the_rule_that_they_have_in_common(
    optimizer: str, power: float | None
) -> None:
    """RecBole 558; dlrm 15: SparseAdam beside Adam."""
    assert critical_batch.learning_rate_power(optimizer) == power


# The interval of a predicted ratio


@given(ratio=st.floats(0.1, 10.0), ends=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=2))
def test_the_interval_of_a_prediction_holds_it_and_the_ends(ratio: float, ends: list[float]) -> None:
    low, high = critical_batch.prediction_interval(ratio, ends)
    assert low < ratio < high
    assert low <= min(ends) * (1 + 1e-9)
    assert high >= max(ends) * (1 - 1e-9)
    inverse_low, inverse_high = critical_batch.prediction_interval(1 / ratio, [1 / end for end in ends])
    assert (inverse_low * high, inverse_high * low) == (pytest.approx(1), pytest.approx(1))


def test_a_critical_batch_size_without_an_error_leaves_the_error_of_the_law() -> None:
    low, high = critical_batch.prediction_interval(2.0, [2.0, 2.0])
    assert (low, high) == (pytest.approx(2 * 0.921, rel=1e-3), pytest.approx(2 * 1.086, rel=1e-3))


def test_errors_of_the_critical_batch_size_and_of_the_law_add_up_in_squares() -> None:
    _, high = critical_batch.prediction_interval(1.0, [1.0, 1.5])
    assert 1.5 < high < 1.5 * 1.03

"""Change or keep: what each needs, how sure it is, and intervals that hold on simulated rounds."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.confidence import (
    CHANGE_PROBABILITY,
    Action,
    Confidence,
    Decision,
    Speedup,
    compare_sizes,
    decide,
    measured_speedups,
    unconfirmed_departure,
)
from autobatch.decision.constants import TOLERANCE
from autobatch.decision.same_epochs import HarmEstimate, safe_sizes
from autobatch.decision.step_time import fit_step_time
from autobatch.records.trial import Outcome, Trial

CURRENT = 32
SIZES = (8, 16, 32, 64, 128, 256)

speedups = st.builds(Speedup, log_ratio=st.floats(-1.0, 2.0), sd=st.floats(0.01, 0.5))
harms = st.builds(HarmEstimate, log_harm=st.floats(-0.2, 0.5), sd=st.floats(0.001, 0.2))


def faster(ratios: Mapping[int, float], sd: float = 0.02) -> dict[int, Speedup]:
    """Sizes with their true speedup, all measured with the same error."""
    return {size: Speedup(log_ratio=math.log(ratio), sd=sd) for size, ratio in ratios.items()}


def harmful(ratios: Mapping[int, float], sd: float = 0.005) -> dict[int, HarmEstimate]:
    return {size: HarmEstimate(log_harm=math.log(ratio), sd=sd) for size, ratio in ratios.items()}


def test_the_fastest_safe_size_is_recommended() -> None:
    decision = decide(CURRENT, faster({64: 1.5, 128: 2.0, 256: 3.0}), harmful({64: 1.0, 128: 1.01, 256: 1.1}))
    assert (decision.action, decision.batch_size) == (Action.CHANGE, 128)
    assert decision.level is Confidence.HIGH


def test_of_equally_fast_sizes_the_nearest_is_recommended() -> None:
    decision = decide(CURRENT, faster({64: 1.49, 128: 1.50}), harmful({64: 1.0, 128: 1.01}))
    assert decision.batch_size == 64


def test_a_smaller_size_may_be_recommended() -> None:
    decision = decide(CURRENT, faster({16: 1.4, 64: 0.8}), harmful({16: 0.99, 64: 1.0}))
    assert (decision.action, decision.batch_size) == (Action.CHANGE, 16)


def test_a_noisy_fastest_size_leaves_a_surely_faster_one() -> None:
    measured = {**faster({64: 1.5}), **faster({128: 1.9}, sd=0.6)}
    assert decide(CURRENT, measured, harmful({64: 1.0, 128: 1.0})).batch_size == 64


@pytest.mark.parametrize(
    ("ratio", "sd", "harm"),
    [
        (1.0, 0.02, 1.0),  # not faster
        (1.04, 0.02, 1.0),  # too little to be worth it
        (1.95, 0.5, 1.0),  # too noisy: the interval includes slower
        (2.0, 0.02, 1.03),  # harmful
    ],
)
def test_the_current_size_is_kept(ratio: float, sd: float, harm: float) -> None:
    decision = decide(CURRENT, faster({64: ratio}, sd), harmful({64: harm}))
    assert (decision.action, decision.batch_size) == (Action.KEEP, CURRENT)


def test_a_harm_that_is_not_known_well_keeps_the_current_size() -> None:
    assert decide(CURRENT, faster({64: 2.0}), harmful({64: 1.0}, sd=0.03)).action is Action.CHANGE
    assert decide(CURRENT, faster({64: 2.0}), harmful({64: 1.0}, sd=0.3)).action is Action.KEEP


def test_to_keep_is_sure_where_nothing_is_faster_and_unsure_where_only_noise_keeps() -> None:
    slow = decide(CURRENT, faster({64: 1.0, 128: 0.9}), harmful({64: 1.0, 128: 1.0}))
    noisy = decide(CURRENT, faster({64: 1.5}, sd=0.4), harmful({64: 1.0}))
    assert slow.level is Confidence.HIGH
    assert noisy.level is Confidence.LOW
    assert noisy.confidence == pytest.approx(1 - 0.81, abs=0.01)


def test_to_keep_is_sure_where_everything_faster_is_clearly_harmful() -> None:
    kept = decide(CURRENT, faster({64: 2.0}), harmful({64: 1.3}, sd=0.05))
    assert (kept.action, kept.level) == (Action.KEEP, Confidence.HIGH)


def test_without_a_loss_curve_the_current_size_is_kept_with_even_odds() -> None:
    kept = decide(CURRENT, faster({64: 2.0}), {})
    assert (kept.action, kept.batch_size) == (Action.KEEP, CURRENT)
    assert kept.confidence == pytest.approx(0.5, abs=0.001)
    assert decide(CURRENT, faster({64: 0.8}), {}).confidence > 0.99


def test_a_current_size_alone_is_kept_for_sure() -> None:
    assert decide(CURRENT, {CURRENT: Speedup(log_ratio=0, sd=0)}, {}) == Decision(
        action=Action.KEEP, batch_size=CURRENT, confidence=1.0, level=Confidence.HIGH
    )


@given(st.dictionaries(st.sampled_from(SIZES), speedups), st.dictionaries(st.sampled_from(SIZES), harms))
def test_a_change_is_safe_and_surely_faster(
    measured: dict[int, Speedup], expected: dict[int, HarmEstimate]
) -> None:
    """so-vits-svc-fork 342: accuracy may fall with a larger batch."""
    decision = decide(CURRENT, measured, expected)
    assert 0 <= decision.confidence <= 1
    if decision.action is Action.KEEP:
        assert decision.batch_size == CURRENT
        return
    chosen = measured[decision.batch_size]
    assert decision.batch_size in safe_sizes(CURRENT, expected)
    assert chosen.interval[0] > 1
    assert chosen.probability(1 + TOLERANCE) >= decision.confidence >= CHANGE_PROBABILITY


@given(speedups, harms, st.floats(1.0, 4.0))
def test_a_change_is_less_sure_the_noisier_the_measurements_are(
    measured: Speedup, expected: HarmEstimate, more: float
) -> None:
    noisier = Speedup(log_ratio=measured.log_ratio, sd=more * measured.sd)
    before, after = (decide(CURRENT, {64: speedup}, {64: expected}) for speedup in (measured, noisier))
    if after.action is Action.CHANGE:
        assert before.action is Action.CHANGE
        assert before.confidence >= after.confidence


@given(st.dictionaries(st.sampled_from(SIZES), speedups), st.dictionaries(st.sampled_from(SIZES), harms))
def test_every_measured_size_is_compared(
    measured: dict[int, Speedup], expected: dict[int, HarmEstimate]
) -> None:
    rows = compare_sizes(CURRENT, measured, expected)
    assert [row.batch_size for row in rows] == sorted(measured)
    for row in rows:
        assert row.interval[0] < row.speedup < row.interval[1]
        assert (row.harm is None) == (row.batch_size not in expected)
        assert row.safe == (row.batch_size in safe_sizes(CURRENT, expected))
        if row.harm is not None and row.harm_low is not None and row.harm_high is not None:
            assert row.harm_low < row.harm < row.harm_high


def test_a_failed_training_has_no_harm_and_is_not_safe() -> None:
    failed = {64: HarmEstimate(log_harm=math.inf, sd=0.0)}
    (row,) = compare_sizes(CURRENT, faster({64: 2.0}), failed)
    assert (row.harm, row.harm_low, row.harm_high, row.safe) == (None, None, None, False)
    assert decide(CURRENT, faster({64: 2.0}), failed).confidence == 1.0


def trial(size: int, seconds: tuple[float, ...]) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OK, step_seconds=seconds)


def test_common_noise_of_rounds_that_ran_in_turns_cancels_out() -> None:
    drift = (1.0, 1.5, 0.8, 2.0, 1.2)
    current, other = trial(32, drift), trial(64, tuple(1.25 * x for x in drift))
    step_time = fit_step_time([32, 64], [current.step_seconds, other.step_seconds])
    measured = measured_speedups(current, (current, other), step_time)
    assert math.exp(measured[64].log_ratio) == pytest.approx(1.6, rel=0.01)
    assert measured[64].interval[0] > 1.5
    assert measured[32].interval == (1.0, 1.0)


def test_a_single_round_leaves_a_wide_interval() -> None:
    current, other = trial(32, (1.0,)), trial(64, (1.0,))
    step_time = fit_step_time([32, 64], [(1.0,), (1.0,)])
    low, high = measured_speedups(current, (other,), step_time)[64].interval
    assert low < 1.8
    assert high > 2.2


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_intervals_hold_the_truth_and_changes_for_nothing_are_rare(noise: float) -> None:
    generator = random.Random(1)
    covered, changed, repeats = 0, 0, 300
    for _ in range(repeats):
        rounds = [
            tuple(seconds * math.exp(generator.gauss(0, noise)) for _ in range(7)) for seconds in (1.0, 2.0)
        ]
        current, other = trial(32, rounds[0]), trial(64, rounds[1])
        measured = measured_speedups(current, (other,), fit_step_time([32, 64], rounds))
        low, high = measured[64].interval
        covered += low <= 1.0 <= high
        changed += decide(CURRENT, measured, harmful({64: 1.0})).action is Action.CHANGE
    assert covered >= 0.85 * repeats
    assert changed <= 0.1 * repeats


# A timing that departs from the law of the other sizes


@dataclass(frozen=True)
class Measured:
    """Rounds of SIZES on affine hardware, one size slower by a factor in all of its rounds."""

    hardware_batch_size: float
    slow_size: int
    factor: float
    rounds: int

    def by_law(self, size: int) -> float:
        """The speedup of a size that the undisturbed times give."""
        return self._seconds(CURRENT) / self._seconds(size) * size / CURRENT

    def by_rounds(self, size: int) -> float:
        """The speedup that the rounds give."""
        slowed = {CURRENT: self.factor, size: 1 / self.factor}.get(self.slow_size, 1.0)
        return self.by_law(size) * (1.0 if size == CURRENT else slowed)

    def speedups(self) -> dict[int, Speedup]:
        trials = {
            size: trial(
                size, (self._seconds(size) * (self.factor if size == self.slow_size else 1),) * self.rounds
            )
            for size in SIZES
        }
        law = fit_step_time(SIZES, [trials[size].step_seconds for size in SIZES])
        return measured_speedups(trials[CURRENT], tuple(trials.values()), law)

    def _seconds(self, size: int) -> float:
        return 1 + size / self.hardware_batch_size


disturbed = st.builds(
    Measured,
    hardware_batch_size=st.floats(0.1, 1000.0),
    slow_size=st.sampled_from(SIZES),
    factor=st.floats(1.0, 100.0),
    rounds=st.integers(1, 4),
)


@given(disturbed)
def test_the_interval_of_few_rounds_holds_the_measured_speedup_and_that_of_the_law(case: Measured) -> None:
    """The law by the other sizes, from a factor of 1.5 on: a smaller one bends it to the slow size."""
    for size, speedup in case.speedups().items():
        low, high = speedup.interval
        assert low <= case.by_rounds(size) * (1 + TOLERANCE)
        assert high >= case.by_rounds(size) / (1 + TOLERANCE)
        if case.factor >= 1.5:
            assert low / (1 + TOLERANCE) <= case.by_law(size) <= high * (1 + TOLERANCE)


@given(disturbed)
def test_few_slow_rounds_of_one_size_are_no_reason_for_a_change(case: Measured) -> None:
    """On hardware without a fixed cost no size is faster, however slow the current one seems."""
    flat = replace(case, hardware_batch_size=0.1)
    decision = decide(CURRENT, flat.speedups(), harmful(dict.fromkeys(SIZES, 1.0)))
    assert decision.action is Action.KEEP


@pytest.mark.parametrize("hardware_batch_size", [0.1, 8.0, 64.0])
def test_a_current_size_that_seems_28_times_too_slow_is_kept_with_low_confidence(
    hardware_batch_size: float,
) -> None:
    case = Measured(hardware_batch_size, slow_size=CURRENT, factor=28.0, rounds=3)
    decision = decide(CURRENT, case.speedups(), harmful(dict.fromkeys((8, 16, CURRENT, 64), 1.0)))
    assert (decision.action, decision.level) == (Action.KEEP, Confidence.LOW)


@given(disturbed, st.integers(5, 8), st.floats(1.3, 100.0))
def test_a_true_step_in_the_curve_that_rounds_in_turns_confirm_counts(
    case: Measured, rounds: int, factor: float
) -> None:
    cliff = replace(case, hardware_batch_size=0.1, slow_size=CURRENT, factor=factor, rounds=rounds)
    measured = cliff.speedups()
    assert math.exp(measured[64].log_ratio) == pytest.approx(cliff.by_rounds(64), rel=0.05)
    decision = decide(CURRENT, measured, harmful(dict.fromkeys(SIZES, 1.0)))
    assert (decision.action, decision.level) == (Action.CHANGE, Confidence.HIGH)


@pytest.mark.parametrize(("slow_rounds", "is_confirmed"), [(3, False), (6, False), (7, True), (8, True)])
def test_a_departure_in_some_rounds_only_is_not_confirmed(slow_rounds: int, is_confirmed: bool) -> None:
    times = {size: (1.0 + size,) * 8 for size in SIZES}
    law = fit_step_time(SIZES, [(9.0,), (17.0,), (10 * 33.0,), (65.0,), (129.0,), (257.0,)])
    slow = tuple(33.0 * (10 if i < slow_rounds else 0.99) for i in range(8))
    departure = unconfirmed_departure(trial(CURRENT, slow), trial(64, times[64]), law)
    assert departure == (0.0 if is_confirmed else pytest.approx(math.log(10), abs=0.1))

"""The walk over learning rates on simulated trainings, its gates, and the credit for a lower loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.constants import MOST_TRAINED_SIZES, RAISE_FROM
from autobatch.decision.learning_rate import RateWalk, end_loss, relative_steps, trains, walk
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome

STEPS = tuple(sorted({0, *(round(4 * 1.2**k) for k in range(20))}))
LIMIT = 8.0  # rates beyond it diverge

starts = st.floats(1e-3, 20.0)
shares = st.one_of(st.none(), st.floats(0.001, 1.0))


def training(
    factor: float,
    losses: list[float],
    parts: tuple[float, ...] = (1.0,),
    outcome: Outcome = Outcome.OK,
) -> Training:
    """A training with these losses; each part of the held-out samples has a multiple of them."""
    return Training(
        batch_size=64,
        learning_rate_factor=factor,
        outcome=outcome,
        steps=STEPS[-1],
        seconds=1.0,
        evaluations=tuple(
            Evaluation(steps=steps, seconds=steps / 100, losses=tuple(loss * part for part in parts))
            for steps, loss in zip(STEPS, losses, strict=False)
        ),
    )


def simulated(factor: float) -> Training:
    """Progress of a quadratic: proportional to the rate, with a floor of noise that grows with it."""
    if factor > LIMIT:
        return training(factor, [2.0, 5.0], outcome=Outcome.DIVERGED)
    return training(factor, [2 / (1 + factor * steps / 20) + 0.02 * factor for steps in STEPS])


def walked(start: float, share: float | None) -> tuple[RateWalk, list[float]]:
    """The walk to its end, and the rates that were trained."""
    runs = [simulated(start)]
    while (outcome := walk(runs, share)).next_factor is not None:
        runs.append(simulated(outcome.next_factor))
    return outcome, [run.learning_rate_factor for run in runs]


def test_a_rate_that_is_too_low_is_raised_twice_at_most() -> None:
    outcome, rates = walked(0.1, 0.2)
    assert outcome.factor == pytest.approx(0.4)
    assert rates == pytest.approx([0.1, 0.2, 0.4])
    assert outcome.log_gain == pytest.approx(math.log(1.05))


def test_a_rate_that_is_too_high_is_lowered() -> None:
    outcome, rates = walked(8.0, 0.2)
    assert outcome.factor < 8.0
    assert end_loss(simulated(outcome.factor)) < end_loss(simulated(8.0))
    assert rates[:3] == [8.0, 16.0, 4.0]


@pytest.mark.parametrize("share", [None, 0.01, 0.2])
def test_a_diverging_rate_is_halved_whatever_the_length(share: float | None) -> None:
    outcome, rates = walked(12.0, share)
    assert rates[:2] == [12.0, 6.0]
    assert outcome.factor <= 6.0
    assert outcome.log_gain == 0.0
    assert max(rates) == 12.0


def test_a_rate_that_diverges_at_half_as_well_stays_rejected() -> None:
    outcome, rates = walked(40.0, None)
    assert rates == [40.0, 20.0]
    assert outcome == RateWalk(factor=40.0, next_factor=None, trains=False)


def test_a_training_that_failed_for_another_reason_is_not_repeated() -> None:
    failed = training(1.0, [], outcome=Outcome.FAILED)
    assert walk([failed], 1.0) == RateWalk(factor=1.0, next_factor=None, trains=False)


def test_a_rate_that_hardly_trains_is_replaced_by_four_times_it() -> None:
    outcome, rates = walked(0.002, 0.2)
    assert rates[:2] == pytest.approx([0.002, 0.008])
    assert outcome.factor >= 0.008
    assert outcome.log_gain == 0.0


@pytest.mark.parametrize("share", [0.75 * RAISE_FROM, 0.2])
def test_a_rate_at_which_the_loss_rises_is_replaced_by_a_quarter_of_it(share: float) -> None:
    stuck = training(4.0, [2.30 + 0.02 * min(steps, 1) for steps in STEPS])
    assert walk([stuck], share) == RateWalk(factor=4.0, next_factor=1.0, trains=False)
    rescued = walk([stuck, simulated(1.0)], share)
    assert (rescued.factor, rescued.trains, rescued.log_gain) == (1.0, True, 0.0)
    # Where a quarter of the rate doesn't train either, the rate may have been too low.
    still = training(1.0, [2.30 for _ in STEPS])
    assert walk([stuck, still], share).next_factor == (16.0 if share >= RAISE_FROM else None)


def test_a_good_rate_stays() -> None:
    best = min((0.25 * 2**k for k in range(6)), key=lambda factor: end_loss(simulated(factor)))
    outcome, _ = walked(best, 0.2)
    assert outcome.factor in (best, 2 * best, best / 2)
    assert end_loss(simulated(outcome.factor)) <= 1.15 * end_loss(simulated(best))


@given(starts, shares)
def test_the_walk_is_short_and_ends_at_a_rate_that_was_trained(start: float, share: float | None) -> None:
    outcome, rates = walked(start, share)
    assert len(rates) <= MOST_TRAINED_SIZES
    assert outcome.factor in rates
    assert len(set(rates)) == len(rates)
    if trains(simulated(start)):
        assert start / 8 <= outcome.factor <= 4 * start


@given(starts)
def test_short_runs_lower_only(start: float) -> None:
    outcome, rates = walked(start, 0.75 * RAISE_FROM)
    assert outcome.factor <= start
    assert max(rates) == start


@given(st.floats(1e-3, LIMIT), st.one_of(st.none(), st.floats(0.0, RAISE_FROM / 2, exclude_max=True)))
def test_shorter_runs_and_unknown_lengths_move_nothing(start: float, share: float | None) -> None:
    outcome, rates = walked(start, share)
    assert (outcome.factor, outcome.next_factor, rates) == (start, None, [start])


@given(starts, starts)
def test_relative_steps_of_swapped_trainings_are_inverse(first: float, second: float) -> None:
    pair = [simulated(min(factor, LIMIT)) for factor in (first, second)]
    ratio, inverse = relative_steps(*pair), relative_steps(*reversed(pair))
    assert ratio * inverse == pytest.approx(1, rel=0.02)


def test_half_of_the_steps_to_the_same_loss_is_half() -> None:
    slow = training(1.0, [1 / (1 + steps) for steps in STEPS])
    fast = training(2.0, [1 / (1 + 2 * steps) for steps in STEPS])
    assert relative_steps(fast, slow) == pytest.approx(0.5, rel=0.05)


def gain_of(lead: float, parts: tuple[float, ...], better: tuple[float, ...]) -> float:
    """The gain of twice the rate, whose loss is lower by `lead` from the first evaluation on."""
    slow = training(1.0, [1 / (1 + steps) for steps in STEPS], parts)
    fast = training(2.0, [math.exp(-lead) / (1 + 1.5 * steps) for steps in STEPS], better)
    return walk([slow, fast], 1.0).log_gain


def test_a_lead_that_the_noise_of_the_evaluations_explains_is_no_reason_to_change() -> None:
    """At both rates the loss hardly falls any more, and jumps by 20% from one evaluation to the next."""
    jumps = [1.2 if i % 2 else 1 / 1.2 for i in range(len(STEPS))]
    flat = [0.1 + 2 * math.exp(-steps / 10) for steps in STEPS]
    former = training(1.0, [loss * jump for loss, jump in zip(flat, jumps, strict=True)])
    lower = training(2.0, [0.9 * loss / jump for loss, jump in zip(flat, jumps, strict=True)])
    assert walk([former, lower], 1.0).factor == 1.0
    quiet = [training(1.0, flat), training(2.0, [0.9 * loss for loss in flat])]
    assert walk(quiet, 1.0).factor == 2.0


def test_a_curve_that_was_at_its_last_loss_before_is_not_slow() -> None:
    """The loss rises again: both rates reach the last loss of the first after the same steps."""
    rising = training(1.0, [0.1 + 2 * math.exp(-steps / 10) + steps / 500 for steps in STEPS])
    assert relative_steps(rising, rising) == 1.0
    assert rising.evaluations[-1].losses[0] > min(e.losses[0] for e in rising.evaluations)


def test_half_of_a_lead_is_credited_and_five_percent_at_most() -> None:
    parts = (0.9, 1.0, 1.1)
    assert gain_of(0.0, parts, parts) == pytest.approx(math.log(1.05))
    # 1.5 times the steps lower the loss by ln 1.5; a handicap leaves a lead of 8%.
    assert gain_of(0.08 - math.log(1.5), parts, parts) == 0.0
    slow = training(1.0, [1 / (1 + steps) ** 0.2 for steps in STEPS], parts)
    fast = training(2.0, [1 / (1 + 1.5 * steps) ** 0.2 for steps in STEPS], parts)
    assert walk([slow, fast], 1.0).log_gain == pytest.approx(0.2 * math.log(1.5) / 2, rel=0.05)


def test_a_lead_on_some_parts_only_is_not_credited() -> None:
    assert gain_of(0.0, (1.0, 1.0, 1.0, 1.0), (0.1, 1.5, 1.5, 1.5)) == 0.0


@given(starts, starts, st.lists(st.integers(1, 4), min_size=len(STEPS), max_size=len(STEPS)))
def test_losses_of_ever_more_steps_are_compared_over_time(
    first: float, second: float, counts: list[int]
) -> None:
    """An evaluation of a script is the losses since the one before, as many as there were steps."""

    def of_steps(factor: float) -> Training:
        simple = simulated(factor)
        return replace(
            simple,
            evaluations=tuple(
                replace(evaluation, losses=evaluation.losses * count)
                for evaluation, count in zip(simple.evaluations, counts, strict=False)
            ),
        )

    by_steps, by_parts = (walk([kind(first), kind(second)], 0.2) for kind in (of_steps, simulated))
    assert by_steps == by_parts

"""The walk over learning rates on simulated trainings, its gates, and the credit for a lower loss."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.learning_rate import (
    LOWER_FROM,
    MOST_RUNS,
    RAISE_FROM,
    RateWalk,
    end_loss,
    final_loss_credit,
    relative_steps,
    trains,
    walk,
)
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome

STEPS = tuple(sorted({0, *(round(4 * 1.2**k) for k in range(20))}))
LIMIT = 8.0  # rates beyond it diverge

starts = st.floats(1e-3, 20.0)
shares = st.one_of(st.none(), st.floats(0.001, 1.0))


def training(factor: float, losses: list[float], parts: tuple[float, ...] = (1.0,)) -> Training:
    """A training with these losses; each part of the held-out samples has a multiple of them."""
    return Training(
        batch_size=64,
        learning_rate_factor=factor,
        outcome=Outcome.OK if all(map(math.isfinite, losses)) else Outcome.DIVERGED,
        steps=STEPS[-1],
        seconds=1.0,
        evaluations=tuple(
            Evaluation(steps=steps, seconds=steps / 100, losses=tuple(loss * part for part in parts))
            for steps, loss in zip(STEPS, losses, strict=False)
            if math.isfinite(loss)
        ),
    )


def simulated(factor: float) -> Training:
    """Progress of a quadratic: proportional to the rate, with a floor of noise that grows with it."""
    if factor > LIMIT:
        return training(factor, [2.0, 5.0, math.nan])
    return training(factor, [2 / (1 + factor * steps / 20) + 0.02 * factor for steps in STEPS])


def walked(start: float, share: float | None) -> tuple[RateWalk, list[Training]]:
    """The walk to its end."""
    runs: list[Training] = []
    while (outcome := walk(start, runs, share)).next_factor is not None:
        runs.append(simulated(outcome.next_factor))
    return outcome, runs


def test_a_rate_that_is_too_low_is_raised_twice_at_most() -> None:
    outcome, runs = walked(0.1, 0.2)
    assert outcome.factor == pytest.approx(0.4)
    assert [run.learning_rate_factor for run in runs] == pytest.approx([0.1, 0.2, 0.4])


def test_a_rate_that_is_too_high_is_lowered() -> None:
    outcome, runs = walked(8.0, 0.2)
    assert outcome.factor < 8.0
    assert end_loss(simulated(outcome.factor)) < end_loss(simulated(8.0))
    assert [run.learning_rate_factor for run in runs][:3] == [8.0, 16.0, 4.0]


def test_a_diverging_rate_is_replaced_by_a_quarter_of_it() -> None:
    outcome, runs = walked(12.0, 0.2)
    assert [run.learning_rate_factor for run in runs][:3] == [12.0, 3.0, 48.0]
    assert outcome.factor <= 3.0


def test_a_rate_that_hardly_trains_is_replaced_by_four_times_it() -> None:
    assert walked(0.002, 0.2)[0].factor >= 0.008


def test_a_good_rate_stays() -> None:
    best = min((0.25 * 2**k for k in range(6)), key=lambda factor: end_loss(simulated(factor)))
    outcome, _ = walked(best, 0.2)
    assert outcome.factor in (best, 2 * best, best / 2)
    assert end_loss(simulated(outcome.factor)) <= 1.15 * end_loss(simulated(best))


@given(starts, shares)
def test_the_walk_is_short_and_ends_at_a_rate_that_was_trained(start: float, share: float | None) -> None:
    outcome, runs = walked(start, share)
    assert len(runs) <= 1 + MOST_RUNS
    assert outcome.factor in [start, *(run.learning_rate_factor for run in runs)]
    if trains(simulated(start)):
        assert start / 8 <= outcome.factor <= 4 * start


@given(starts)
def test_short_runs_lower_only(start: float) -> None:
    outcome, runs = walked(start, (LOWER_FROM + RAISE_FROM) / 2)
    assert outcome.factor <= start
    assert max(run.learning_rate_factor for run in runs) == start


@given(starts, st.one_of(st.none(), st.floats(0.0, LOWER_FROM, exclude_max=True)))
def test_shorter_runs_and_unknown_lengths_move_nothing(start: float, share: float | None) -> None:
    assert walked(start, share) == (RateWalk(factor=start, next_factor=None, shown_factor=start), [])


def test_trainings_that_are_too_short_still_show_their_best_rate() -> None:
    runs = [simulated(factor) for factor in (0.1, 0.2, 0.4)]
    assert walk(0.1, runs, None) == RateWalk(factor=0.1, next_factor=None, shown_factor=0.4)


@given(starts, starts)
def test_relative_steps_of_swapped_trainings_are_inverse(first: float, second: float) -> None:
    pair = [simulated(min(factor, LIMIT)) for factor in (first, second)]
    ratio, inverse = relative_steps(*pair), relative_steps(*reversed(pair))
    assert ratio * inverse == pytest.approx(1, rel=0.02)


def test_half_of_the_steps_to_the_same_loss_is_half() -> None:
    slow = training(1.0, [1 / (1 + steps) for steps in STEPS])
    fast = training(2.0, [1 / (1 + 2 * steps) for steps in STEPS])
    assert relative_steps(fast, slow) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("lead", "credit"), [(0.0, 0.0), (0.015, 0.0), (0.06, 0.03), (0.3, math.log(1.05))])
def test_half_of_a_lead_is_credited(lead: float, credit: float) -> None:
    losses = [1 / (1 + steps) for steps in STEPS]
    former = training(1.0, losses, parts=(0.9, 1.0, 1.1))
    better = training(2.0, [loss * math.exp(-lead) for loss in losses], parts=(0.9, 1.0, 1.1))
    assert final_loss_credit(former, better) == pytest.approx(credit)
    assert final_loss_credit(better, former) == 0


def test_a_lead_on_some_parts_only_is_not_credited() -> None:
    losses = [1 / (1 + steps) for steps in STEPS]
    former = training(1.0, losses, parts=(1.0, 1.0, 1.0, 1.0))
    better = training(2.0, losses, parts=(0.5, 1.1, 1.0, 1.05))
    assert final_loss_credit(former, better) == 0


def test_a_failed_training_is_not_credited() -> None:
    assert final_loss_credit(simulated(1.0), simulated(2 * LIMIT)) == 0

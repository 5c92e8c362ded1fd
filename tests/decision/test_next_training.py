"""Which sizes are trained, which are case up, and what is believed after that."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision import next_training
from autobatch.decision.constants import MOST_TRAINED_SIZES
from autobatch.decision.critical_batch import relative_time
from autobatch.decision.next_training import (
    Run,
    TrainingPlan,
    next_run,
    state_after,
    vetoes,
    without_vetoed,
)
from autobatch.records.check import Training
from autobatch.records.trial import Outcome
from tests.builders import affine_law, critical_batch_size, failed_training, loss_by_law, training

SIZES = tuple(2**k for k in range(13))

Train = Callable[[Run], Training]


def plan(critical: float = 2000.0, hardware: float = 256.0, **fields: object) -> TrainingPlan:
    usual = TrainingPlan(
        sizes=SIZES[:12],
        law=affine_law(hardware, SIZES),
        prior=critical_batch_size(critical),
        reference_size=32,
        current_size=32,
        power=1.0,
    )
    return replace(usual, **fields)  # type: ignore[arg-type]


def trained(
    case: TrainingPlan, run: Run, critical: float, seconds: float = 4.0, worse: float = 1.0
) -> Training:
    """A training by the law, of as many steps as fit into the time, its loss `worse` times as high."""
    loss = loss_by_law(run.batch_size, critical)
    step_seconds = case.law.step_seconds_at(run.batch_size)
    return training(
        run.batch_size,
        max(12, int(seconds / step_seconds)),
        lambda at: [part * worse * loss(at) for part in (1, 1.1, 0.9)],
        step_seconds=step_seconds,
        learning_rate_factor=run.learning_rate_factor,
    )


def ended(run: Run, outcome: Outcome = Outcome.DIVERGED) -> Training:
    return failed_training(run.batch_size, outcome, learning_rate_factor=run.learning_rate_factor)


def by_the_law(case: TrainingPlan, critical: float) -> Train:
    return lambda run: trained(case, run, critical)


def all_trainings(case: TrainingPlan, train: Train, most: int = 40) -> list[Training]:
    """All trainings of a plan, to its end."""
    trainings: list[Training] = []
    while (run := next_run(case, trainings)) is not None:
        assert len(trainings) < most
        trainings.append(train(run))
    return trainings


def sizes_of(trainings: Sequence[Training]) -> list[int]:
    return [one.batch_size for one in trainings]


criticals = st.floats(2.0, 20_000.0)
hardware = st.floats(1.0, 4096.0)
base_sizes = st.sampled_from(SIZES[:11])


@st.composite
def any_plan(draw: st.DrawFn) -> TrainingPlan:
    base = draw(base_sizes)
    return TrainingPlan(
        sizes=tuple(sorted({base, *draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=13))})),
        law=affine_law(draw(hardware), SIZES),
        prior=critical_batch_size(draw(criticals), draw(st.floats(0.1, 1.5))),
        reference_size=base,
        current_size=draw(st.sampled_from([None, base])),
        power=draw(st.sampled_from([None, 0.5, 1.0])),
    )


# What is trained


@settings(max_examples=200, deadline=None)
@given(any_plan())
def test_the_base_size_is_trained_first_as_it_is(case: TrainingPlan) -> None:
    first = next_run(case, ())
    assert first is None or first == Run(batch_size=case.reference_size, learning_rate_factor=1.0)


def test_nothing_is_trained_where_no_other_size_can_be_quicker() -> None:
    """Samples cost the same at any size, and fewer of them are needed at the smallest."""
    dear = replace(plan(hardware=0.01), reference_size=1, current_size=1)
    assert next_run(dear, ()) is None
    # A fixed cost alone, and noise that larger batches go on averaging away.
    free = plan(critical=1e6, hardware=1e6, reference_size=SIZES[11], current_size=SIZES[11])
    assert next_run(free, ()) is None


def test_nothing_is_trained_where_there_is_no_other_size() -> None:
    assert next_run(plan(sizes=(32,)), ()) is None


@settings(max_examples=200, deadline=None)
@given(any_plan())
def test_no_training_means_that_the_base_size_is_the_choice(case: TrainingPlan) -> None:
    if next_run(case, ()) is None:
        assert state_after(case, ()).choice == case.reference_size


@settings(max_examples=100, deadline=None)
@given(case=any_plan(), factor=st.floats(0.01, 100.0))
def test_at_most_four_sizes_are_trained_where_all_train_well(case: TrainingPlan, factor: float) -> None:
    trainings = all_trainings(case, by_the_law(case, factor * case.prior.batch_size))
    assert len(set(sizes_of(trainings))) <= MOST_TRAINED_SIZES
    assert set(sizes_of(trainings)) <= set(case.sizes)
    for place, again in enumerate(trainings):
        # A size is trained again when it has become the choice, which may be after another size.
        for first in (run for run in trainings[:place] if run.batch_size == again.batch_size):
            assert again.learning_rate_factor == first.learning_rate_factor / 2 >= 0.75


@settings(max_examples=100, deadline=None)
@given(case=any_plan(), factor=st.floats(0.01, 100.0))
def test_the_choice_was_trained_in_the_end(case: TrainingPlan, factor: float) -> None:
    found = all_trainings(case, by_the_law(case, factor * case.prior.batch_size))
    choice = state_after(case, found).choice
    assert choice in sizes_of(found) or not found


@settings(max_examples=150, deadline=None)
@given(case=any_plan(), seed=st.integers(0, 2**32))
def test_it_ends_whatever_comes_out(case: TrainingPlan, seed: int) -> None:
    draw = random.Random(seed)
    critical = math.exp(draw.uniform(0, 10))

    def arbitrary(run: Run) -> Training:
        outcome = draw.choice([Outcome.OK] * 3 + list(Outcome))
        if outcome is not Outcome.OK:
            return ended(run, outcome)
        return trained(case, run, critical, seconds=draw.choice([0.02, 1, 4]), worse=draw.uniform(0.5, 2))

    found = all_trainings(case, arbitrary, most=2 * len(case.sizes))
    sizes = sizes_of(found)
    assert all(sizes.count(size) <= 2 for size in sizes)
    assert sizes.count(case.reference_size) <= 1
    now = state_after(case, found)
    assert now.choice in now.allowed
    assert case.reference_size in now.allowed
    assert not {veto.batch_size for veto in now.vetoed} & set(now.allowed)


def test_at_most_four_sizes_are_trained_where_all_larger_ones_diverge() -> None:
    case = plan()

    def only_the_base_size(run: Run) -> Training:
        return trained(case, run, 2000.0) if run.batch_size == 32 else ended(run)

    found = all_trainings(case, only_the_base_size)
    assert len(set(sizes_of(found))) <= MOST_TRAINED_SIZES
    assert len(found) <= 2 * MOST_TRAINED_SIZES


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.OK])
def test_a_base_size_that_fails_ends_it(outcome: Outcome) -> None:
    case = plan()
    found = all_trainings(case, lambda run: ended(run, outcome))
    assert sizes_of(found) == [32]
    assert state_after(case, found).vetoed == ()


def test_a_size_that_is_as_good_as_known_is_not_trained_for() -> None:
    """Where B_crit is known, the choice is trained to see that it trains well, and nothing else is."""
    case = plan(prior=critical_batch_size(500.0, 0.05))
    found = all_trainings(case, by_the_law(case, 500.0))
    assert sizes_of(found)[0] == 32
    assert sizes_of(found)[1:] == [state_after(case, found).choice] * 2, "and with half the learning rate"


def test_a_wide_belief_is_worth_a_third_size() -> None:
    """Another size may turn out 2% quicker, which is worth the time to see whether it trains well."""
    wide = plan(prior=critical_batch_size(2000.0, 1.4))
    found = all_trainings(wide, by_the_law(wide, 2000.0))
    sure = plan(prior=critical_batch_size(2000.0, 0.05))
    assert len(set(sizes_of(found))) > len(set(sizes_of(all_trainings(sure, by_the_law(sure, 2000.0))))) == 2


def test_four_sizes_are_room_for_all_that_may_be_the_best() -> None:
    """The base size, and the best ones in the middle and at both ends of a wide belief."""
    wide = plan(prior=critical_batch_size(200.0, 1.5), reference_size=1, current_size=1, hardware=30.0)
    found = all_trainings(wide, by_the_law(wide, 200.0))
    assert len(set(sizes_of(found))) == 4


# Several at the same time


def trained_together(case: TrainingPlan, train: Train, most: int) -> list[tuple[Run, ...]]:
    """What was trained at the same time, `most` at most, to the end of the plan."""
    trainings: list[Training] = []
    together: list[tuple[Run, ...]] = []
    while runs := next_training.next_runs(case, trainings, most):
        assert len(together) < 40
        together.append(runs)
        trainings += map(train, runs)
    return together


@settings(max_examples=100, deadline=None)
@given(case=any_plan(), factor=st.floats(0.01, 100.0), most=st.integers(1, 8))
def test_the_first_of_several_is_the_one_that_comes_next_alone(
    case: TrainingPlan, factor: float, most: int
) -> None:
    trainings = all_trainings(case, by_the_law(case, factor * case.prior.batch_size))
    for count in range(len(trainings) + 1):
        runs = next_training.next_runs(case, trainings[:count], most)
        assert next(iter(runs), None) == next_run(case, trainings[:count])
        assert len(runs) <= most
        assert len({one.batch_size for one in runs}) == len(runs)


@settings(max_examples=100, deadline=None)
@given(case=any_plan(), seed=st.integers(0, 2**32), most=st.integers(1, 8))
def test_several_at_a_time_end_whatever_comes_out(case: TrainingPlan, seed: int, most: int) -> None:
    draw = random.Random(seed)
    critical = math.exp(draw.uniform(0, 10))

    def arbitrary(run: Run) -> Training:
        outcome = draw.choice([Outcome.OK] * 3 + list(Outcome))
        return trained(case, run, critical) if outcome is Outcome.OK else ended(run, outcome)

    together = trained_together(case, arbitrary, most)
    sizes = [run.batch_size for runs in together for run in runs]
    assert len(set(sizes)) <= MOST_TRAINED_SIZES
    assert all(sizes.count(size) <= 2 for size in sizes)
    assert sizes.count(case.reference_size) <= 1
    assert not sizes or sizes[0] == case.reference_size


def test_the_base_size_and_its_first_rivals_are_trained_at_the_same_time() -> None:
    wide = plan(prior=critical_batch_size(200.0, 1.5), reference_size=1, current_size=1, hardware=30.0)
    (first, *_) = trained_together(wide, by_the_law(wide, 200.0), 3)
    assert len(first) == 3
    assert (first[0].batch_size, first[1].batch_size) == (1, state_after(wide, ()).choice)


def test_all_that_failed_at_the_same_time_is_tried_again() -> None:
    case = plan(prior=critical_batch_size(2000.0, 1.4))

    def only_the_base_size(run: Run) -> Training:
        return trained(case, run, 2000.0) if run.batch_size == 32 else ended(run)

    first, second, *_ = trained_together(case, only_the_base_size, 3)
    rivals = [replace(one, learning_rate_factor=one.learning_rate_factor / 2) for one in first[1:]]
    assert len(rivals) == 2
    assert list(second[:2]) == rivals


# Sizes that train worse


def test_a_size_that_fails_is_tried_again_with_half_its_learning_rate() -> None:
    case = plan()
    own = trained(case, Run(batch_size=32, learning_rate_factor=1.0), 2000.0)
    first = next_run(case, [own])
    assert first is not None
    assert first.learning_rate_factor > 2
    for failed in (ended(first), trained(case, first, 2000.0, worse=6.0)):
        assert state_after(case, [own, failed]).vetoed == ()
        assert next_run(case, [own, failed]) == Run(
            batch_size=first.batch_size, learning_rate_factor=first.learning_rate_factor / 2
        )


def test_after_two_failures_it_and_everything_larger_is_dropped() -> None:
    case = plan()

    def up_to_128(run: Run) -> Training:
        return trained(case, run, 2000.0, worse=1.0 if run.batch_size <= 128 else 9.0)

    found = all_trainings(case, up_to_128)
    now = state_after(case, found)
    assert {veto.batch_size for veto in now.vetoed} == set(sizes_of(found)) - {32, 64, 128}
    assert all("loss" in veto.reason for veto in now.vetoed)
    assert all(size <= 128 for size in now.allowed)
    assert now.choice <= 128
    assert all(sizes_of(found).count(veto.batch_size) == 2 for veto in now.vetoed)
    # After a veto nothing as large is tried.
    assert sizes_of(found)[1::2] == sorted(sizes_of(found)[1::2], reverse=True)


def test_a_retry_that_passes_keeps_the_size_with_the_halved_factor() -> None:
    case = plan()
    most = 4.0

    def up_to_a_rate(run: Run) -> Training:
        fine = run.learning_rate_factor <= most
        return trained(case, run, 2000.0) if fine else ended(run)

    own = up_to_a_rate(Run(batch_size=32, learning_rate_factor=1.0))
    run = next_run(case, [own])
    assert run is not None
    most = 0.6 * run.learning_rate_factor
    trainings = [own, up_to_a_rate(run)]
    again = next_run(case, trainings)
    assert again is not None
    trainings.append(up_to_a_rate(again))
    now = state_after(case, trainings)
    assert now.vetoed == vetoes(32, trainings) == ()
    assert set(now.allowed) == set(case.sizes)
    assert now.matched is not None
    assert {size for size, _ in now.matched.steps} == {32, run.batch_size}
    assert trainings[-1].learning_rate_factor == run.learning_rate_factor / 2
    following = next_run(case, trainings)
    assert following is None or following.batch_size not in {32, run.batch_size}


def test_a_smaller_size_that_fails_is_dropped_alone() -> None:
    small, own, large = (Run(batch_size=size, learning_rate_factor=1.0) for size in (64, 256, 1024))
    case = plan(reference_size=256, current_size=256)
    trainings = [trained(case, own, 90.0), ended(small), ended(small), trained(case, large, 90.0)]
    now = state_after(case, trainings)
    assert [veto.batch_size for veto in now.vetoed] == [64]
    assert set(now.allowed) == set(case.sizes) - {64}


def test_a_smaller_size_with_a_worse_loss_is_not_dropped() -> None:
    small, own = (Run(batch_size=size, learning_rate_factor=1.0) for size in (64, 256))
    case = plan(reference_size=256, current_size=256)
    worse = trained(case, small, 90.0, worse=3.0)
    assert vetoes(256, [trained(case, own, 90.0), worse, worse]) == ()


def test_a_veto_needs_a_second_try() -> None:
    own, other = (Run(batch_size=size, learning_rate_factor=1.0) for size in (32, 256))
    case = plan()
    good = trained(case, own, 500.0)
    assert vetoes(32, [good, ended(other)]) == ()
    (veto,) = vetoes(32, [good, ended(other), ended(other)])
    assert (veto.batch_size, veto.reason) == (256, "the training diverged after 3 steps")
    assert vetoes(32, []) == vetoes(32, [ended(other), ended(other)]) == ()


@settings(max_examples=100, deadline=None)
@given(base=base_sizes, out=st.lists(st.sampled_from(SIZES), max_size=3))
def test_vetoes_above_the_base_hold_for_all_that_is_larger(base: int, out: list[int]) -> None:
    case = plan(reference_size=base, sizes=SIZES)
    own = trained(case, Run(batch_size=base, learning_rate_factor=1.0), 500.0)
    failed = [ended(Run(batch_size=size, learning_rate_factor=1.0)) for size in out if size != base]
    vetoed = vetoes(base, [own, *failed, *failed])
    assert {veto.batch_size for veto in vetoed} == set(sizes_of(failed))
    allowed = without_vetoed(SIZES, base, vetoed)
    assert base in allowed
    assert not {veto.batch_size for veto in vetoed} & set(allowed)
    above = [size for size in sizes_of(failed) if size > base]
    assert max(allowed) < min(above, default=math.inf)
    assert {size for size in SIZES if size < base} - set(sizes_of(failed)) <= set(allowed)


# Learning rates


def test_without_a_rule_learning_rates_stay_as_they_are() -> None:
    case = plan(power=None)
    found = all_trainings(case, by_the_law(case, 20_000.0))
    assert len(found) > 1
    assert {one.learning_rate_factor for one in found} == {1.0}


def test_without_a_rule_half_of_it_is_tried_all_the_same() -> None:
    case = plan(power=None)
    own = trained(case, Run(batch_size=32, learning_rate_factor=1.0), 2000.0)
    first = next_run(case, [own])
    assert first is not None
    assert next_run(case, [own, ended(first)]) == replace(first, learning_rate_factor=0.5)


@settings(max_examples=100, deadline=None)
@given(any_plan(), st.sampled_from(SIZES))
def test_learning_rates_keep_between_the_flat_and_the_linear_rule(case: TrainingPlan, size: int) -> None:
    factor = next_training.learning_rate_factor(case, state_after(case, ()).belief, size)
    linear = (size / case.reference_size) ** (case.power or 0)
    assert min(1.0, linear) - 1e-9 <= factor <= max(1.0, linear) + 1e-9


# What is believed


@pytest.mark.parametrize(("believed", "true"), [(100.0, 3000.0), (3000.0, 100.0), (300.0, 1500.0)])
def test_trainings_move_the_belief_towards_the_truth(believed: float, true: float) -> None:
    case = plan(believed)
    found = all_trainings(case, by_the_law(case, true))
    assert len(found) >= 2
    before, after = state_after(case, ()).belief, state_after(case, found).belief
    assert abs(math.log(after.batch_size / true)) < 0.75 * abs(math.log(before.batch_size / true))
    assert after.log_sd < before.log_sd


@settings(max_examples=50, deadline=None)
@given(critical=st.floats(50.0, 5000.0), off=st.floats(-1.5, 1.5), hardware=st.floats(16.0, 1024.0))
def test_the_choice_is_near_the_best_in_hindsight(critical: float, off: float, hardware: float) -> None:
    case = plan(critical * math.exp(off), hardware, sizes=SIZES, current_size=None)
    found = all_trainings(case, lambda run: trained(case, run, critical, seconds=40.0))
    best = min(relative_time(size, critical, case.law) for size in SIZES)
    choice = state_after(case, found).choice
    assert relative_time(choice, critical, case.law) <= 1.25 * best


def test_a_training_alone_changes_nothing_that_is_believed() -> None:
    case = plan()
    own = trained(case, Run(batch_size=32, learning_rate_factor=1.0), 9.0)
    assert state_after(case, [own]).belief == state_after(case, ()).belief
    assert state_after(case, [own]).matched is None


def test_the_current_size_wins_a_tie_with_and_without_trainings() -> None:
    for critical, kept in ((150.0, True), (190.0, False)):
        case = plan(
            prior=critical_batch_size(critical, 0.01), hardware=256.0, reference_size=128, current_size=128
        )
        ratio = relative_time(128, critical, case.law) / relative_time(256, critical, case.law)
        assert (1 < ratio < 1.05) if kept else (1.05 < ratio < 1.10)
        runs = [Run(batch_size=size, learning_rate_factor=1.0) for size in (128, 256)]
        for trainings in ([], [trained(case, run, critical) for run in runs]):
            assert (state_after(case, trainings).choice == 128) == kept


def test_what_a_vetoed_size_took_says_nothing_of_others() -> None:
    """It is its learning rate that was at fault, or its size: neither is told by the law of steps."""
    case = plan()
    own, other = (Run(batch_size=size, learning_rate_factor=1.0) for size in (32, 1024))
    good, bad = trained(case, own, 2000.0), trained(case, other, 2000.0, worse=6.0)
    assert [veto.batch_size for veto in state_after(case, [good, bad, bad]).vetoed] == [1024]
    for trainings in ([good, bad], [good, bad, bad]):
        assert state_after(case, trainings).belief == state_after(case, [good]).belief
        assert state_after(case, trainings).matched is None

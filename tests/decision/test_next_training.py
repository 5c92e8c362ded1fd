"""Which sizes are trained, which are given up, and what is believed after that."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision import next_training
from autobatch.decision.constants import MOST_TRAINED_SIZES
from autobatch.decision.critical_batch import relative_time
from autobatch.decision.next_training import (
    Contest,
    Entry,
    next_entry,
    standing,
    vetoes,
    without_vetoed,
)
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome

SIZES = tuple(2**k for k in range(13))

Train = Callable[[Entry], Training]


def affine(hardware_batch_size: float) -> StepTimeLaw:
    return fit_step_time(SIZES, [(1e-3 * (1 + size / hardware_batch_size),) for size in SIZES])


def prior(critical: float, log_sd: float = 0.9) -> CriticalBatchSize:
    reach = math.exp(1.645 * log_sd)
    return CriticalBatchSize(batch_size=critical, low=critical / reach, high=critical * reach, log_sd=log_sd)


def contest(critical: float = 2000.0, hardware: float = 256.0, **given: object) -> Contest:
    usual = Contest(
        sizes=SIZES[:12],
        law=affine(hardware),
        prior=prior(critical),
        reference_size=32,
        current_size=32,
        power=1.0,
    )
    return replace(usual, **given)  # type: ignore[arg-type]


def trained(
    about: Contest, entry: Entry, critical: float, seconds: float = 4.0, worse: float = 1.0
) -> Training:
    """A training by the law, of as many steps as fit into the time, its loss `worse` times as high."""
    size, at, evaluations = entry.batch_size, 4, []
    steps = max(12, int(seconds / about.law.step_seconds_at(size)))
    while at <= steps:
        loss = worse * (1 + at / (1 + critical / size) / 5) ** -0.5
        seconds_at = at * about.law.step_seconds_at(size)
        evaluations.append(Evaluation(steps=at, seconds=seconds_at, losses=(loss, 1.1 * loss, 0.9 * loss)))
        at = max(at + 1, math.ceil(1.2 * at))
    return Training(
        batch_size=size,
        learning_rate_factor=entry.learning_rate_factor,
        outcome=Outcome.OK,
        steps=steps,
        seconds=seconds,
        evaluations=tuple(evaluations),
    )


def ended(entry: Entry, outcome: Outcome = Outcome.DIVERGED) -> Training:
    return Training(
        batch_size=entry.batch_size,
        learning_rate_factor=entry.learning_rate_factor,
        outcome=outcome,
        steps=3,
        seconds=0.1,
    )


def by_the_law(about: Contest, critical: float) -> Train:
    return lambda entry: trained(about, entry, critical)


def held(about: Contest, train: Train, most: int = 40) -> list[Training]:
    """All trainings of a contest, to its end."""
    trainings: list[Training] = []
    while (entry := next_entry(about, trainings)) is not None:
        assert len(trainings) < most
        trainings.append(train(entry))
    return trainings


def sizes_of(trainings: Sequence[Training]) -> list[int]:
    return [one.batch_size for one in trainings]


criticals = st.floats(2.0, 20_000.0)
hardware = st.floats(1.0, 4096.0)
base_sizes = st.sampled_from(SIZES[:11])


@st.composite
def contests_of_any_kind(draw: st.DrawFn) -> Contest:
    base = draw(base_sizes)
    return Contest(
        sizes=tuple(sorted({base, *draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=13))})),
        law=affine(draw(hardware)),
        prior=prior(draw(criticals), draw(st.floats(0.1, 1.5))),
        reference_size=base,
        current_size=draw(st.sampled_from([None, base])),
        power=draw(st.sampled_from([None, 0.5, 1.0])),
    )


# What is trained


@settings(max_examples=200, deadline=None)
@given(contests_of_any_kind())
def test_the_base_size_is_trained_first_as_it_is(about: Contest) -> None:
    first = next_entry(about, ())
    assert first is None or first == Entry(batch_size=about.reference_size, learning_rate_factor=1.0)


def test_nothing_is_trained_where_no_other_size_can_be_quicker() -> None:
    """Samples cost the same at any size, and fewer of them are needed at the smallest."""
    dear = replace(contest(hardware=0.01), reference_size=1, current_size=1)
    assert next_entry(dear, ()) is None
    # A fixed cost alone, and noise that larger batches go on averaging away.
    free = contest(critical=1e6, hardware=1e6, reference_size=SIZES[11], current_size=SIZES[11])
    assert next_entry(free, ()) is None


def test_nothing_is_trained_where_there_is_no_other_size() -> None:
    assert next_entry(contest(sizes=(32,)), ()) is None


@settings(max_examples=200, deadline=None)
@given(contests_of_any_kind())
def test_no_training_means_that_the_base_size_is_the_choice(about: Contest) -> None:
    if next_entry(about, ()) is None:
        assert standing(about, ()).choice == about.reference_size


@settings(max_examples=100, deadline=None)
@given(about=contests_of_any_kind(), factor=st.floats(0.01, 100.0))
def test_at_most_four_sizes_are_trained_where_all_train_well(about: Contest, factor: float) -> None:
    trainings = held(about, by_the_law(about, factor * about.prior.batch_size))
    assert len(set(sizes_of(trainings))) <= MOST_TRAINED_SIZES
    assert set(sizes_of(trainings)) <= set(about.sizes)
    for first, again in pairwise(trainings):
        if again.batch_size in sizes_of(trainings[: trainings.index(again)]):
            assert again.learning_rate_factor == first.learning_rate_factor / 2 >= 0.75


@settings(max_examples=100, deadline=None)
@given(about=contests_of_any_kind(), factor=st.floats(0.01, 100.0))
def test_the_choice_was_trained_in_the_end(about: Contest, factor: float) -> None:
    found = held(about, by_the_law(about, factor * about.prior.batch_size))
    choice = standing(about, found).choice
    assert choice in sizes_of(found) or not found


@settings(max_examples=150, deadline=None)
@given(about=contests_of_any_kind(), seed=st.integers(0, 2**32))
def test_it_ends_whatever_comes_out(about: Contest, seed: int) -> None:
    draw = random.Random(seed)
    critical = math.exp(draw.uniform(0, 10))

    def arbitrary(entry: Entry) -> Training:
        outcome = draw.choice([Outcome.OK] * 3 + list(Outcome))
        if outcome is not Outcome.OK:
            return ended(entry, outcome)
        return trained(about, entry, critical, seconds=draw.choice([0.02, 1, 4]), worse=draw.uniform(0.5, 2))

    found = held(about, arbitrary, most=2 * len(about.sizes))
    sizes = sizes_of(found)
    assert all(sizes.count(size) <= 2 for size in sizes)
    assert sizes.count(about.reference_size) <= 1
    now = standing(about, found)
    assert now.choice in now.allowed
    assert about.reference_size in now.allowed
    assert not {veto.batch_size for veto in now.vetoed} & set(now.allowed)


def test_at_most_four_sizes_are_trained_where_all_larger_ones_diverge() -> None:
    about = contest()

    def only_the_base_size(entry: Entry) -> Training:
        return trained(about, entry, 2000.0) if entry.batch_size == 32 else ended(entry)

    found = held(about, only_the_base_size)
    assert len(set(sizes_of(found))) <= MOST_TRAINED_SIZES
    assert len(found) <= 2 * MOST_TRAINED_SIZES


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.OK])
def test_a_base_size_that_fails_ends_it(outcome: Outcome) -> None:
    about = contest()
    found = held(about, lambda entry: ended(entry, outcome))
    assert sizes_of(found) == [32]
    assert standing(about, found).vetoed == ()


def test_a_size_that_is_as_good_as_known_is_not_trained_for() -> None:
    """Where B_crit is known, the choice is trained to see that it trains well, and nothing else is."""
    about = contest(prior=prior(500.0, 0.05))
    found = held(about, by_the_law(about, 500.0))
    assert sizes_of(found)[0] == 32
    assert sizes_of(found)[1:] == [standing(about, found).choice] * 2, "and with half the learning rate"


def test_a_wide_belief_is_worth_a_third_size() -> None:
    """Another size may turn out 2% quicker, which is worth the time to see whether it trains well."""
    wide = contest(prior=prior(2000.0, 1.4))
    found = held(wide, by_the_law(wide, 2000.0))
    sure = contest(prior=prior(2000.0, 0.05))
    assert len(set(sizes_of(found))) > len(set(sizes_of(held(sure, by_the_law(sure, 2000.0))))) == 2


def test_four_sizes_are_room_for_all_that_may_be_the_best() -> None:
    """The base size, and the best ones in the middle and at both ends of a wide belief."""
    wide = contest(prior=prior(200.0, 1.5), reference_size=1, current_size=1, hardware=30.0)
    found = held(wide, by_the_law(wide, 200.0))
    assert len(set(sizes_of(found))) == 4


# Several at the same time


def held_together(about: Contest, train: Train, most: int) -> list[tuple[Entry, ...]]:
    """What was trained at the same time, `most` at most, to the end of the contest."""
    trainings: list[Training] = []
    together: list[tuple[Entry, ...]] = []
    while entries := next_training.next_entries(about, trainings, most):
        assert len(together) < 40
        together.append(entries)
        trainings += map(train, entries)
    return together


@settings(max_examples=100, deadline=None)
@given(about=contests_of_any_kind(), factor=st.floats(0.01, 100.0), most=st.integers(1, 8))
def test_the_first_of_several_is_the_one_that_comes_next_alone(
    about: Contest, factor: float, most: int
) -> None:
    trainings = held(about, by_the_law(about, factor * about.prior.batch_size))
    for count in range(len(trainings) + 1):
        entries = next_training.next_entries(about, trainings[:count], most)
        assert next(iter(entries), None) == next_entry(about, trainings[:count])
        assert len(entries) <= most
        assert len({one.batch_size for one in entries}) == len(entries)


@settings(max_examples=100, deadline=None)
@given(about=contests_of_any_kind(), seed=st.integers(0, 2**32), most=st.integers(1, 8))
def test_several_at_a_time_end_whatever_comes_out(about: Contest, seed: int, most: int) -> None:
    draw = random.Random(seed)
    critical = math.exp(draw.uniform(0, 10))

    def arbitrary(entry: Entry) -> Training:
        outcome = draw.choice([Outcome.OK] * 3 + list(Outcome))
        return trained(about, entry, critical) if outcome is Outcome.OK else ended(entry, outcome)

    together = held_together(about, arbitrary, most)
    sizes = [entry.batch_size for entries in together for entry in entries]
    assert len(set(sizes)) <= MOST_TRAINED_SIZES
    assert all(sizes.count(size) <= 2 for size in sizes)
    assert sizes.count(about.reference_size) <= 1
    assert not sizes or sizes[0] == about.reference_size


def test_the_base_size_and_its_first_rivals_are_trained_at_the_same_time() -> None:
    wide = contest(prior=prior(200.0, 1.5), reference_size=1, current_size=1, hardware=30.0)
    (first, *_) = held_together(wide, by_the_law(wide, 200.0), 3)
    assert len(first) == 3
    assert (first[0].batch_size, first[1].batch_size) == (1, standing(wide, ()).choice)


def test_all_that_failed_at_the_same_time_is_tried_again() -> None:
    about = contest(prior=prior(2000.0, 1.4))

    def only_the_base_size(entry: Entry) -> Training:
        return trained(about, entry, 2000.0) if entry.batch_size == 32 else ended(entry)

    first, second, *_ = held_together(about, only_the_base_size, 3)
    rivals = [replace(one, learning_rate_factor=one.learning_rate_factor / 2) for one in first[1:]]
    assert len(rivals) == 2
    assert list(second[:2]) == rivals


# Sizes that train worse


def test_a_size_that_fails_is_tried_again_with_half_its_learning_rate() -> None:
    about = contest()
    own = trained(about, Entry(batch_size=32, learning_rate_factor=1.0), 2000.0)
    first = next_entry(about, [own])
    assert first is not None
    assert first.learning_rate_factor > 2
    for failed in (ended(first), trained(about, first, 2000.0, worse=6.0)):
        assert standing(about, [own, failed]).vetoed == ()
        assert next_entry(about, [own, failed]) == Entry(
            batch_size=first.batch_size, learning_rate_factor=first.learning_rate_factor / 2
        )


def test_after_two_failures_it_and_everything_larger_is_dropped() -> None:
    about = contest()

    def up_to_128(entry: Entry) -> Training:
        return trained(about, entry, 2000.0, worse=1.0 if entry.batch_size <= 128 else 9.0)

    found = held(about, up_to_128)
    now = standing(about, found)
    assert {veto.batch_size for veto in now.vetoed} == set(sizes_of(found)) - {32, 64, 128}
    assert all("loss" in veto.reason for veto in now.vetoed)
    assert all(size <= 128 for size in now.allowed)
    assert now.choice <= 128
    assert all(sizes_of(found).count(veto.batch_size) == 2 for veto in now.vetoed)
    # After a veto nothing as large is tried.
    assert sizes_of(found)[1::2] == sorted(sizes_of(found)[1::2], reverse=True)


def test_a_retry_that_passes_keeps_the_size_with_the_halved_factor() -> None:
    about = contest()
    most = 4.0

    def up_to_a_rate(entry: Entry) -> Training:
        fine = entry.learning_rate_factor <= most
        return trained(about, entry, 2000.0) if fine else ended(entry)

    own = up_to_a_rate(Entry(batch_size=32, learning_rate_factor=1.0))
    entry = next_entry(about, [own])
    assert entry is not None
    most = 0.6 * entry.learning_rate_factor
    trainings = [own, up_to_a_rate(entry)]
    again = next_entry(about, trainings)
    assert again is not None
    trainings.append(up_to_a_rate(again))
    now = standing(about, trainings)
    assert now.vetoed == vetoes(32, trainings) == ()
    assert set(now.allowed) == set(about.sizes)
    assert now.matched is not None
    assert {size for size, _ in now.matched.steps} == {32, entry.batch_size}
    assert trainings[-1].learning_rate_factor == entry.learning_rate_factor / 2
    following = next_entry(about, trainings)
    assert following is None or following.batch_size not in {32, entry.batch_size}


def test_a_smaller_size_that_fails_is_dropped_alone() -> None:
    small, own, large = (Entry(batch_size=size, learning_rate_factor=1.0) for size in (64, 256, 1024))
    about = contest(reference_size=256, current_size=256)
    trainings = [trained(about, own, 90.0), ended(small), ended(small), trained(about, large, 90.0)]
    now = standing(about, trainings)
    assert [veto.batch_size for veto in now.vetoed] == [64]
    assert set(now.allowed) == set(about.sizes) - {64}


def test_a_smaller_size_with_a_worse_loss_is_not_dropped() -> None:
    small, own = (Entry(batch_size=size, learning_rate_factor=1.0) for size in (64, 256))
    about = contest(reference_size=256, current_size=256)
    worse = trained(about, small, 90.0, worse=3.0)
    assert vetoes(256, [trained(about, own, 90.0), worse, worse]) == ()


def test_a_veto_needs_a_second_try() -> None:
    own, other = (Entry(batch_size=size, learning_rate_factor=1.0) for size in (32, 256))
    about = contest()
    good = trained(about, own, 500.0)
    assert vetoes(32, [good, ended(other)]) == ()
    (veto,) = vetoes(32, [good, ended(other), ended(other)])
    assert (veto.batch_size, veto.reason) == (256, "the training diverged after 3 steps")
    assert vetoes(32, []) == vetoes(32, [ended(other), ended(other)]) == ()


@settings(max_examples=100, deadline=None)
@given(base=base_sizes, out=st.lists(st.sampled_from(SIZES), max_size=3))
def test_vetoes_above_the_base_hold_for_all_that_is_larger(base: int, out: list[int]) -> None:
    about = contest(reference_size=base, sizes=SIZES)
    own = trained(about, Entry(batch_size=base, learning_rate_factor=1.0), 500.0)
    failed = [ended(Entry(batch_size=size, learning_rate_factor=1.0)) for size in out if size != base]
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
    about = contest(power=None)
    found = held(about, by_the_law(about, 20_000.0))
    assert len(found) > 1
    assert {one.learning_rate_factor for one in found} == {1.0}


def test_without_a_rule_half_of_it_is_tried_all_the_same() -> None:
    about = contest(power=None)
    own = trained(about, Entry(batch_size=32, learning_rate_factor=1.0), 2000.0)
    first = next_entry(about, [own])
    assert first is not None
    assert next_entry(about, [own, ended(first)]) == replace(first, learning_rate_factor=0.5)


@settings(max_examples=100, deadline=None)
@given(contests_of_any_kind(), st.sampled_from(SIZES))
def test_learning_rates_keep_between_the_flat_and_the_linear_rule(about: Contest, size: int) -> None:
    factor = next_training.learning_rate_factor(about, standing(about, ()).belief, size)
    linear = (size / about.reference_size) ** (about.power or 0)
    assert min(1.0, linear) - 1e-9 <= factor <= max(1.0, linear) + 1e-9


# What is believed


@pytest.mark.parametrize(("believed", "true"), [(100.0, 3000.0), (3000.0, 100.0), (300.0, 1500.0)])
def test_trainings_move_the_belief_towards_the_truth(believed: float, true: float) -> None:
    about = contest(believed)
    found = held(about, by_the_law(about, true))
    assert len(found) >= 2
    before, after = standing(about, ()).belief, standing(about, found).belief
    assert abs(math.log(after.batch_size / true)) < 0.75 * abs(math.log(before.batch_size / true))
    assert after.log_sd < before.log_sd


@settings(max_examples=50, deadline=None)
@given(critical=st.floats(50.0, 5000.0), off=st.floats(-1.5, 1.5), hardware=st.floats(16.0, 1024.0))
def test_the_choice_is_near_the_best_in_hindsight(critical: float, off: float, hardware: float) -> None:
    about = contest(critical * math.exp(off), hardware, sizes=SIZES, current_size=None)
    found = held(about, lambda entry: trained(about, entry, critical, seconds=40.0))
    best = min(relative_time(size, critical, about.law) for size in SIZES)
    choice = standing(about, found).choice
    assert relative_time(choice, critical, about.law) <= 1.25 * best


def test_a_training_alone_changes_nothing_that_is_believed() -> None:
    about = contest()
    own = trained(about, Entry(batch_size=32, learning_rate_factor=1.0), 9.0)
    assert standing(about, [own]).belief == standing(about, ()).belief
    assert standing(about, [own]).matched is None


def test_the_own_size_wins_a_smaller_tie_with_trainings() -> None:
    """8% slower than the best: near enough without any training, not with some."""
    about = contest(prior=prior(256.0, 0.01), hardware=256.0, reference_size=128, current_size=128)
    law = about.law
    ratio = relative_time(128, 256.0, law) / relative_time(256, 256.0, law)
    assert 1.10 < ratio < 1.15
    close = replace(about, prior=prior(190.0, 0.01))
    ratio = relative_time(128, 190.0, law) / relative_time(256, 190.0, law)
    assert 1.05 < ratio < 1.10
    assert standing(about, ()).choice == 256
    assert standing(close, ()).choice == 128
    own, other = (Entry(batch_size=size, learning_rate_factor=1.0) for size in (128, 256))
    after = [trained(close, own, 190.0), trained(close, other, 190.0)]
    assert standing(close, after).choice == 256


def test_what_a_vetoed_size_took_says_nothing_of_others() -> None:
    """It is its learning rate that was at fault, or its size: neither is told by the law of steps."""
    about = contest()
    own, other = (Entry(batch_size=size, learning_rate_factor=1.0) for size in (32, 1024))
    good, bad = trained(about, own, 2000.0), trained(about, other, 2000.0, worse=6.0)
    assert [veto.batch_size for veto in standing(about, [good, bad, bad]).vetoed] == [1024]
    for trainings in ([good, bad], [good, bad, bad]):
        assert standing(about, trainings).belief == standing(about, [good]).belief
        assert standing(about, trainings).matched is None

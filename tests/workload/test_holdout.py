"""Samples held out: never trained on, the same for the same seed, and enough of them to judge."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.workload.holdout import FEWEST_HELD_OUT, split

seeds = st.integers(0, 2**63 - 1)
wanted = st.integers(1, 2000)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(160, 3000), wanted=wanted, seed=seeds)
def test_what_is_held_out_of_the_training_set_is_not_trained_on(size: int, wanted: int, seed: int) -> None:
    found = split(size, None, wanted, seed)
    assert found is not None
    assert not found.from_validation
    train, held_out = set(found.train), set(found.held_out)
    assert not train & held_out
    assert len(train) == len(found.train)
    assert len(held_out) == len(found.held_out) == min(wanted, size // 10)
    assert train | held_out <= set(range(size))
    assert len(train) == size - size // 10


@settings(max_examples=100, deadline=None)
@given(size=st.integers(160, 3000), wanted=st.tuples(wanted, wanted), seed=seeds)
def test_how_many_are_wanted_does_not_change_what_is_trained_on(
    size: int, wanted: tuple[int, int], seed: int
) -> None:
    """And fewer of them are among more of them, so that trainings of unlike lengths compare."""
    one, other = (split(size, None, count, seed) for count in sorted(wanted))
    assert one is not None
    assert other is not None
    assert list(one.train) == list(other.train)
    assert set(one.held_out) <= set(other.held_out)


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 3000),
    validation_size=st.integers(FEWEST_HELD_OUT, 5000),
    wanted=wanted,
    seed=seeds,
)
def test_with_validation_data_all_of_the_training_set_is_trained_on(
    size: int, validation_size: int, wanted: int, seed: int
) -> None:
    found = split(size, validation_size, wanted, seed)
    assert found is not None
    assert found.from_validation
    assert list(found.train) == list(range(size))
    assert len(set(found.held_out)) == len(found.held_out) == min(wanted, validation_size)
    assert all(0 <= row < validation_size for row in found.held_out)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(160, 1000), validation=st.none() | st.integers(16, 500), seed=seeds)
def test_the_same_seed_splits_the_same_way(size: int, validation: int | None, seed: int) -> None:
    one, other = (split(size, validation, 64, seed) for _ in range(2))
    assert one == other


def test_another_seed_holds_out_others() -> None:
    for validation in (None, 1000):
        found = {tuple(one.held_out) for seed in range(20) if (one := split(1000, validation, 50, seed))}
        assert len(found) == 20


def test_a_shuffled_tenth_and_no_block_of_it() -> None:
    """Data sets are often sorted by class."""
    found = split(10_000, None, 1000, 0)
    assert found is not None
    for held_out in (found.held_out, found.train[:1000]):
        assert 400 < sum(row < 5000 for row in held_out) < 600


def test_too_little_validation_data_is_passed_over() -> None:
    few = split(1000, FEWEST_HELD_OUT - 1, 64, 0)
    assert few is not None
    assert not few.from_validation
    assert few == split(1000, None, 64, 0)
    enough = split(1000, FEWEST_HELD_OUT, 64, 0)
    assert enough is not None
    assert len(enough.held_out) == FEWEST_HELD_OUT


@pytest.mark.parametrize("size", [0, 1, 16, 100, 159])
def test_of_a_tiny_data_set_none_can_be_spared(size: int) -> None:
    assert split(size, None, 64, 0) is None
    assert split(size, FEWEST_HELD_OUT - 1, 64, 0) is None


def test_the_smallest_data_set_that_can_spare_some() -> None:
    found = split(160, None, 64, 0)
    assert found is not None
    assert len(found.held_out) == FEWEST_HELD_OUT
    assert len(found.train) == 144


def test_a_split_says_where_its_samples_come_from() -> None:
    validation, training = split(5000, 2000, 1024, 0), split(50_000, None, 1024, 0)
    assert validation is not None
    assert training is not None
    assert validation.description == "1,024 validation samples"
    assert training.description == "1,024 samples held out of the training set"

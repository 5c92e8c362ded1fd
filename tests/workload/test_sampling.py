"""Samplers of DataLoaders: the samples of an epoch, its length, and batch samplers named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from autobatch.records.errors import TargetError
from autobatch.workload import sampling, serialization
from autobatch.workload.dataset import open_samples
from autobatch.workload.holdout import split
from autobatch.workload.parts import Parts
from tests.workload.datasets import Mapped
from tests.workload.trainings import trainer


class Endless:
    """As samplers of detection trainings: it never stops, and has no length."""

    def __iter__(self) -> Iterator[int]:
        return itertools.cycle([3, 5, 7])


class Buckets:
    """As samplers by length: batches of several sizes."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([0, 1, 2], [4, 5], [10, 11, 12, 13, 14])


class Backwards(Sampler[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size - 1, -1, -1))


class Failing:
    def __iter__(self) -> Iterator[int]:
        raise KeyError("no classes.json")


def drawn(samples: Any, count: int) -> list[int]:
    return sorted(samples.batch(count, 0)[1].tolist())


@pytest.mark.parametrize(
    "sampler",
    [
        SequentialSampler(Mapped()),
        RandomSampler(Mapped()),
        DistributedSampler(Mapped(), num_replicas=4, rank=1),
    ],
)
def test_a_sampler_of_every_sample_changes_nothing(sampler: Any) -> None:
    loader = DataLoader(Mapped(), batch_size=3, sampler=sampler)
    assert sampling.sampler_of(loader) is None
    assert open_samples(loader).notes == ()
    assert open_samples(loader).size == 20


@settings(max_examples=50, deadline=None)
@given(indices=st.sets(st.integers(0, 19), min_size=1), size=st.integers(1, 5))
def test_an_epoch_has_the_samples_of_the_sampler(indices: set[int], size: int) -> None:
    """nitrain 62; ffcv 171: samplers of a part of the data set."""
    samples = open_samples(DataLoader(Mapped(), batch_size=size, sampler=SubsetRandomSampler([*indices])))
    assert samples.size == len(indices)
    assert drawn(samples, len(indices)) == sorted(indices)
    assert samples.kind == "Mapped"
    if len(indices) < 20:
        assert samples.notes == (f"samples: {len(indices)} an epoch of 20, by your SubsetRandomSampler",)


def test_a_weighted_sampler_sets_the_length_of_the_epoch_and_the_share_of_each_sample() -> None:
    weights = [0.0] * 10 + [1.0] * 10
    samples = open_samples(DataLoader(Mapped(), sampler=WeightedRandomSampler(weights, 300)))
    assert samples.size == 300
    assert set(drawn(samples, 300)) <= set(range(10, 20))


def test_samples_that_are_drawn_twice_are_held_out_together() -> None:
    sampler = WeightedRandomSampler([1.0] * 100, 400, generator=torch.Generator().manual_seed(1))
    samples = open_samples(DataLoader(Mapped(100), sampler=sampler))
    assert samples.keys is not None
    parts = split(samples.size or 0, None, 40, 0, samples.keys)
    assert parts is not None
    held_out = {samples.keys[place] for place in parts.held_out}
    assert held_out
    assert not held_out & {samples.keys[place] for place in parts.train}


def test_an_endless_sampler_gives_an_epoch_of_the_data_set() -> None:
    samples = open_samples(DataLoader(Mapped(), sampler=Endless()))
    assert samples.size == 20
    assert set(drawn(samples, 20)) == {3, 5, 7}


def test_an_order_that_is_not_followed_is_named() -> None:
    samples = open_samples(DataLoader(Mapped(), sampler=Backwards(20)))
    assert samples.size == 20
    assert samples.notes == ("samples: all, by your Backwards, drawn at random instead of in its order",)


def test_a_plain_batch_sampler_is_its_sampler_and_its_size() -> None:
    batches = BatchSampler(SubsetRandomSampler(range(8)), 4, drop_last=True)
    loader = DataLoader(Mapped(), batch_sampler=batches)
    assert sampling.batch_size_of(loader) == 4
    assert sampling.drops_last(loader)
    assert open_samples(loader).size == 8


def test_another_batch_sampler_is_refused_by_its_name_and_sizes() -> None:
    """A sampler of P classes x K samples.

    open-metric-learning 626; Lightning-AI/pytorch-lightning 19371; PetrochukM/PyTorch-NLP 114;
    huggingface/transformers 14767.
    """
    loader = DataLoader(Mapped(), batch_sampler=Buckets())
    assert sampling.batch_size_of(loader) is None
    with pytest.raises(TargetError) as caught:
        sampling.refuse_batches(sampling.sampler_of(loader))
    assert caught.value.code == "batch_sampler"
    assert "Buckets" in caught.value.message
    assert "it gives batches of 2 to 5 samples" in caught.value.facts
    sampling.refuse_batches(sampling.sampler_of(DataLoader(Mapped())))


def test_a_batch_sampler_of_validation_data_chooses_its_samples() -> None:
    samples = open_samples(DataLoader(Mapped(), batch_sampler=Buckets()))
    assert samples.size == 10
    assert drawn(samples, 10) == [0, 1, 2, 4, 5, 10, 11, 12, 13, 14]


def test_drawing_leaves_the_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    open_samples(DataLoader(Mapped(), sampler=SubsetRandomSampler(range(9))))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("sampler", "code"), [(Failing(), "bad_sampler"), ([], "empty_dataset")])
def test_a_sampler_that_gives_nothing_is_an_error(sampler: Any, code: str) -> None:
    with pytest.raises(TargetError) as caught:
        sampling.sampled(Mapped(), sampler)
    assert caught.value.code == code
    assert type(sampler).__name__ in str(caught.value.facts) + caught.value.message


def test_samples_read_at_once_are_read_at_once() -> None:
    class AtOnce(Mapped):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [(torch.zeros(2), index) for index in indices]

    view, _ = sampling.sampled(AtOnce(), [4, 6, 8])
    assert [index for _, index in view.__getitems__([2, 0])] == [8, 4]
    assert not hasattr(sampling.sampled(Mapped(), [4, 6])[0], "__getitems__")


def test_a_sampler_goes_to_the_worker_with_its_data_set() -> None:
    dataset = Mapped(50)
    loader = DataLoader(dataset, batch_size=2, sampler=SubsetRandomSampler(range(5)))
    validation = DataLoader(dataset, batch_size=2, sampler=SubsetRandomSampler(range(5, 9)))
    sent = serialization.sendable(Parts(model=torch.nn.Linear(2, 2), dataset=loader, val_dataset=validation))
    with serialization.packed(sent) as path:
        parts = serialization.unpacked_parts(path)
    assert open_samples(parts.dataset, parts.collate_fn, parts.sampler).size == 5
    assert drawn(open_samples(parts.val_dataset, None, parts.val_sampler), 4) == [5, 6, 7, 8]


def test_a_training_holds_out_samples_of_its_sampler() -> None:
    dataset = [(torch.full((4,), float(index)), index % 3) for index in range(4000)]
    loader: DataLoader[Any] = DataLoader(dataset, sampler=SubsetRandomSampler(range(1000, 1400)))
    made = trainer(torch.nn.Linear(4, 3), loader)
    parts = made.hold_out(40, 0)
    assert parts is not None
    inputs, _ = made.load_rows(parts.held_out)
    assert made.dataset_size == 400
    assert 1000 <= inputs.min() <= inputs.max() < 1400

"""What all samples share: collated batches, and a loader over them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
)

from autobatch.records.errors import TargetError
from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.dataset import open_samples
from autobatch.workload.synthetic_samples import SyntheticSamples
from tests.workload.datasets import INPUTS, TARGETS, Mapped, Stream


def test_a_loader_over_samples_deals_out_whole_batches() -> None:
    settings = LoaderSettings()
    mapped = open_samples((INPUTS, TARGETS)).loader(settings, 6, workers=0, seed=1)
    assert mapped is not None
    batches = list(itertools.islice(mapped, 10))
    assert [len(targets) for _, targets in batches] == [6] * 10
    assert all(bool((inputs[:, 0] == 2 * targets).all()) for inputs, targets in batches)
    again = open_samples((INPUTS, TARGETS)).loader(settings, 6, workers=0, seed=1)
    assert again is not None
    assert next(iter(again))[1].tolist() == batches[0][1].tolist()
    streamed = open_samples(Stream(20)).loader(settings, 6, workers=0, seed=1)
    assert streamed is not None
    assert [len(batch) for batch in streamed] == [6, 6, 6]
    assert open_samples(iter([INPUTS] * 9)).loader(settings, 6, workers=0, seed=1) is None
    assert SyntheticSamples((5,), classes=None).loader(settings, 6, workers=0, seed=1) is None


def refusal(data: Any) -> TargetError:
    """The error that a batch of three of `data` ends with."""
    with pytest.raises(TargetError) as caught:
        open_samples(data).batch(3, 0)
    return caught.value


def test_a_collate_function_of_the_loader_is_used_unless_another_is_given() -> None:
    loader = DataLoader(Mapped(), batch_size=4, collate_fn=lambda samples: "loader's")
    assert open_samples(loader).batch(2, 0) == "loader's"
    assert open_samples(loader, lambda samples: "own").batch(2, 0) == "own"


def test_samples_that_can_not_be_collated() -> None:
    error = refusal([torch.zeros(2 + index) for index in range(3)])
    assert (error.code, error.message) == ("bad_collate", "3 samples can't be collated into a batch")
    assert "stack expects each tensor to be equal size" in error.facts[0]


class Broken:
    """A third of the samples can't be read and is None."""

    def __len__(self) -> int:
        return 90

    def __getitem__(self, index: int) -> Any:
        return None if index % 3 else torch.full((4,), float(index))


def without_none(samples: list[Any]) -> Any:
    return torch.stack([sample for sample in samples if sample is not None])


def test_an_example_is_the_smallest_batch_that_can_be_collated() -> None:
    """pytorch/pytorch 57429, 1137: a collate function drops samples that are None."""
    assert len(open_samples(Mapped()).example()[0]) == 1

    def pairs(samples: list[Any]) -> Any:
        anchors, positives = samples[::2], samples[1::2]
        return torch.stack([a for a, _ in anchors]), torch.stack([p for p, _ in positives])

    def triples(samples: list[Any]) -> int:
        return len(samples[3:]) or [][0]

    samples = open_samples(Mapped(), pairs)
    assert [len(part) for part in samples.example()] == [1, 1]
    assert open_samples(Mapped(), triples).example() == 1
    assert len(open_samples(Broken(), without_none).example()) >= 1


def test_without_any_example_the_error_is_that_of_a_single_sample() -> None:
    with pytest.raises(TargetError, match="1 sample can't be collated"):
        open_samples(Broken(), lambda samples: [][0]).example()


@pytest.mark.parametrize("made", [None, [], ([], []), torch.zeros(0, 3), {"x": torch.zeros(0)}])
def test_an_empty_batch_is_an_error_of_its_size(made: Any) -> None:
    with pytest.raises(TargetError) as caught:
        open_samples(Mapped(), lambda samples: made).batch(2, 0)
    assert (caught.value.code, caught.value.message) == (
        "bad_collate",
        "the `collate_fn` makes an empty batch of 2 samples",
    )
    assert "--min-batch" in caught.value.hint


class Files:
    """Samples are paths; the collate function reads them."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> Path:
        return Path(str(index))


def read(paths: list[Path]) -> torch.Tensor:
    longest = max(int(path.name) for path in paths) + 1
    return torch.zeros(len(paths), longest)


def test_samples_that_hide_their_sizes_are_measured_as_batches() -> None:
    samples = open_samples(Files(), read)
    samples.scan(0)
    assert samples.sizes is not None
    assert (samples.sizes.smallest, samples.sizes.largest) == (1, 50)
    assert samples.largest(2, 0).shape == (2, 50)
    assert samples.notes == ()


def test_sizes_that_stay_hidden_are_unknown_and_that_is_said() -> None:
    samples = open_samples(Files(), lambda paths: paths)
    samples.scan(0)
    assert samples.sizes is None
    assert samples.notes[0].startswith("sizes of samples: unknown")
    numbers = open_samples(range(30))
    numbers.scan(0)
    assert numbers.sizes is not None
    assert numbers.notes == ()

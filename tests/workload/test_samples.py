"""What all samples share: collated batches, and a loader over them."""

from __future__ import annotations

import itertools
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

"""Samples of streams, which are read once and kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import (
    IterableDataset,
)

from autobatch.records.workload import SampleSizes
from autobatch.workload.dataset import open_samples
from autobatch.workload.streamed_samples import StreamEndedError
from tests.workload.datasets import Stream, lengths


def test_a_stream_is_read_once_and_kept() -> None:
    samples = open_samples(Stream(6))
    size_before = samples.size
    assert size_before is None
    assert samples.batch(4, 0).tolist() == [0, 1, 2, 3]
    assert samples.batch(2, 1).tolist() == [0, 1]
    with pytest.raises(StreamEndedError) as ended:
        samples.batch(8, 2)
    assert ended.value.size == samples.size == 6
    assert samples.batch(6, 3).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_stream_that_tells_its_length_is_known_no_further_for_it() -> None:
    class Sized(IterableDataset):
        def __len__(self) -> int:
            return 1000

        def __iter__(self) -> Iterator[torch.Tensor]:
            return (torch.zeros(1 + i % 4) for i in range(1000))

    samples = open_samples(Sized(), lengths)
    assert samples.size == 1000
    assert samples.largest(6, seed=0) == [4, 3, 2, 2, 1, 1]


def test_a_stream_knows_the_sizes_of_what_it_has_kept() -> None:
    rows = [torch.zeros(length) for length in (2, 7, 1, 5, 3)]
    samples = open_samples(iter(rows), lengths)
    samples.scan(seed=0)
    assert samples.sizes is None
    assert samples.largest(3, seed=0) == [7, 2, 1]
    assert samples.sizes == SampleSizes(scanned=3, smallest=1, median=2.0, largest=7)
    assert samples.largest(1, seed=0) == [7]
    assert samples.batch(2, seed=0) == [2, 7]
    assert samples.repeated(6) == [7] * 6
    with pytest.raises(StreamEndedError):
        samples.largest(6, seed=0)

"""Batches of exactly n samples from whatever people call a data set, and the errors where there are none."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from autobatch.records.errors import TargetError
from autobatch.records.workload import SampleSizes, SequenceLengths
from autobatch.workload.batches import describe_batch
from autobatch.workload.data_loader import LoaderSettings, check_loader, make_loader, settings_of
from autobatch.workload.dataset import open_samples
from autobatch.workload.mapped_samples import MappedSamples
from autobatch.workload.streamed_samples import StreamEndedError
from autobatch.workload.synthetic_samples import SyntheticSamples

INPUTS = torch.arange(40.0).reshape(20, 2)
TARGETS = torch.arange(20)


class Mapped(Dataset[tuple[torch.Tensor, int]]):
    """A map-style data set that breaks at one index."""

    def __init__(self, size: int = 20, broken: int | None = None) -> None:
        self.size = size
        self.broken = broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.broken:
            raise OSError(f"no file {index}.png")
        return torch.full((2,), float(index)), index


class Stream(IterableDataset[int]):
    def __init__(self, size: int, broken: int | None = None) -> None:
        self.size = size
        self.broken = broken

    def __iter__(self) -> Iterator[int]:
        for index in range(self.size):
            if index == self.broken:
                raise ValueError("bad shard")
            yield index


class Lengthless(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


def refusal(data: Any) -> TargetError:
    """The error that a batch of three of `data` ends with."""
    with pytest.raises(TargetError) as caught:
        open_samples(data).batch(3, 0)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        (INPUTS, TARGETS),
        (INPUTS.numpy(), TARGETS.numpy()),
        TensorDataset(INPUTS, TARGETS),
        DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=7),
        Subset(TensorDataset(INPUTS, TARGETS), range(20)),
        [(INPUTS[i], TARGETS[i]) for i in range(20)],
        Mapped(),
    ],
    ids=lambda data: type(data).__name__,
)
def test_a_batch_has_exactly_the_samples_asked_for_each_once(data: Any) -> None:
    samples = open_samples(data)
    assert samples.size == 20
    for size in (1, 3, 20):
        inputs, targets = samples.batch(size, seed=1)
        assert inputs.shape == (size, 2)
        assert inputs.dtype == torch.float32
        assert len(set(targets.tolist())) == size


def test_the_same_seed_draws_the_same_batch() -> None:
    samples = open_samples((INPUTS, TARGETS))
    first, again, other = (samples.batch(5, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_what_a_data_set_is_called() -> None:
    assert open_samples((INPUTS, TARGETS)).kind == "2 tensors"
    assert open_samples((INPUTS.numpy(),)).kind == "1 array"
    assert open_samples(Mapped()).kind == "Mapped"


def test_float64_arrays_become_float32_and_that_is_said() -> None:
    samples = open_samples((np.zeros((4, 2)), np.zeros(4, dtype=np.int64)))
    assert samples.batch(2, 0)[0].dtype == torch.float32
    assert samples.notes == ("NumPy float64 arrays taken as float32",)
    assert open_samples((np.zeros((4, 2), dtype=np.float32),)).notes == ()


def test_a_collate_function_of_the_loader_is_used_unless_another_is_given() -> None:
    loader = DataLoader(Mapped(), batch_size=4, collate_fn=lambda samples: "loader's")
    assert open_samples(loader).batch(2, 0) == "loader's"
    assert open_samples(loader, lambda samples: "own").batch(2, 0) == "own"


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


class Ragged(Dataset[torch.Tensor]):
    """Sample i is a row of i + 1 numbers; reading one draws a random number, as augmentations do."""

    def __init__(self, size: int = 20, broken: int | None = None) -> None:
        self.size = size
        self.broken = broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.rand(1), np.random.rand(1), random.random()
        if index == self.broken:
            raise OSError(f"no file {index}.png")
        return torch.full((index + 1,), float(index))


def lengths(rows: list[torch.Tensor]) -> list[int]:
    return [len(row) for row in rows]


def test_the_largest_samples_make_the_worst_batch() -> None:
    samples = open_samples(Ragged(), lengths)
    samples.scan(seed=0)
    assert samples.vary
    assert samples.sizes == SampleSizes(scanned=20, smallest=1, median=10.5, largest=20)
    assert samples.largest(3, seed=0) == [20, 19, 18]
    assert samples.repeated(3) == [20, 20, 20]
    assert sorted(samples.largest(20, seed=0)) == list(range(1, 21))


def test_a_scan_of_samples_that_vary_finds_the_one_that_is_larger_than_all_others() -> None:
    samples = open_samples(Ragged(5000), lengths)
    samples.scan(seed=3)
    again = open_samples(Ragged(5000), lengths)
    again.scan(seed=3)
    assert samples.sizes is not None
    assert (samples.sizes.scanned, samples.sizes.largest) == (5000, 5000)
    assert samples.largest(2, seed=0) == [5000, 4999]
    assert samples.scanned == again.scanned


def test_a_scan_of_samples_that_do_not_vary_ends_early() -> None:
    samples = open_samples(Mapped(5000))
    samples.scan(seed=3)
    assert samples.sizes is not None
    assert (samples.sizes.scanned, samples.vary) == (2048, False)


def test_a_scan_takes_no_list_of_all_samples_of_a_huge_data_set() -> None:
    samples = open_samples(Mapped(10**12))
    samples.scan(seed=3)
    assert samples.sizes is not None
    assert samples.sizes.scanned == 2048


def test_a_scan_ends_when_its_time_is_over() -> None:
    class Slow(Mapped):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            time.sleep(2.6)
            return super().__getitem__(index)

    samples = open_samples(Slow())
    samples.scan(seed=0)
    assert samples.sizes is not None
    assert 1 <= samples.sizes.scanned <= 2


def test_of_a_part_of_a_data_set_the_largest_stand_for_what_was_not_read() -> None:
    samples = open_samples(Ragged(20), lengths)
    assert isinstance(samples, MappedSamples)
    samples.scan(seed=0, most=5)
    assert samples.sizes is not None
    assert samples.sizes.scanned == 5
    assert samples.largest(4, seed=0) == [samples.sizes.largest] * 4
    assert len(set(samples.largest(8, seed=0))) == 2


def test_a_scan_changes_no_random_numbers() -> None:
    samples = open_samples(Ragged(), lengths)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    samples.scan(seed=0)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_samples_of_one_size_are_drawn_as_ever() -> None:
    samples = open_samples(Mapped())
    samples.scan(seed=0)
    assert not samples.vary
    assert samples.scanned is not None
    assert samples.scanned.largest == ()
    assert samples.largest(5, seed=2)[1].tolist() == samples.batch(5, seed=2)[1].tolist()
    assert samples.repeated(4)[1].tolist() == [0, 0, 0, 0]


def test_a_sample_that_can_not_be_read_is_left_out_of_a_scan() -> None:
    samples = open_samples(Ragged(broken=19), lengths)
    samples.scan(seed=0)
    assert samples.largest(2, seed=0) == [19, 18]
    broken = open_samples(Ragged(1, broken=0), lengths)
    broken.scan(seed=0)
    assert (broken.scanned, broken.sizes, broken.vary) == (None, None, False)


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


def test_dict_samples_with_tokens() -> None:
    rows = [{"input_ids": list(range(length)), "label": 1} for length in (3, 9, 6)]
    samples = open_samples(rows, lambda batch: [len(row["input_ids"]) for row in batch])
    samples.scan(seed=0)
    assert samples.sizes is not None
    assert samples.sizes.tokens == SequenceLengths(mean=6.0, median=6.0, longest=9)
    assert samples.largest(2, seed=0) == [9, 6]


def test_synthetic_samples_are_all_of_one_size() -> None:
    samples = SyntheticSamples((5,), classes=None)
    samples.scan(seed=0)
    assert samples.sizes is None
    assert samples.largest(3, seed=0).shape == samples.repeated(3).shape == (3, 5)


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


def test_the_settings_of_a_loader() -> None:
    assert settings_of(Mapped()) is None
    assert settings_of(DataLoader(Mapped())) == LoaderSettings()
    loader = DataLoader(
        Mapped(),
        num_workers=2,
        prefetch_factor=5,
        persistent_workers=True,
        pin_memory=True,
        timeout=7,
        multiprocessing_context="forkserver",
        worker_init_fn=print,
    )
    assert settings_of(loader) == LoaderSettings(
        workers=2,
        prefetch_factor=5,
        persistent_workers=True,
        pin_memory=True,
        timeout_seconds=7,
        start_method="forkserver",
        worker_init_fn=print,
    )
    given = settings_of(loader) or LoaderSettings()
    made = make_loader(Mapped(), default_collate, given, 4, 2, seed=0)
    assert (made.batch_size, made.num_workers, made.prefetch_factor, made.timeout) == (4, 2, 5, 7)
    assert made.persistent_workers
    context: Any = made.multiprocessing_context
    assert context.get_start_method() == "forkserver"
    # Without workers a DataLoader refuses all that is about them.
    assert make_loader(Mapped(), default_collate, given, 4, 0, seed=0).timeout == 0


@pytest.mark.parametrize(
    "data",
    [Mapped(0), (INPUTS[:0], TARGETS[:0]), Stream(0), []],
    ids=["mapped", "tensors", "stream", "list"],
)
def test_empty_data_sets(data: Any) -> None:
    error = refusal(data)
    assert (error.code, error.message) == ("empty_dataset", "the data set is empty")


@pytest.mark.parametrize(
    ("data", "message", "fact"),
    [
        (Mapped(3, broken=1), "the data set can't give sample 1", "OSError: no file 1.png"),
        (
            Subset(Mapped(3, broken=1), range(3)),
            "the data set can't give 3 samples at once",
            "OSError: no file",
        ),
        (Stream(9, broken=1), "the data set can't give sample 1", "ValueError: bad shard"),
    ],
    ids=["mapped", "subset", "stream"],
)
def test_samples_that_can_not_be_read(data: Any, message: str, fact: str) -> None:
    error = refusal(data)
    assert (error.code, error.message) == ("bad_sample", message)
    assert error.facts[0].startswith(fact)
    assert error.facts[1].startswith("at test_samples.py:")
    assert error.hint


def test_arrays_of_unequal_length() -> None:
    error = refusal((INPUTS, TARGETS[:-1]))
    assert error.code == "bad_dataset"
    assert error.facts == ("array 0: shape (20, 2)", "array 1: shape (19,)")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, "an object of type `int` is not a data set"),
        ({"x": INPUTS}, "an object of type `dict` is not a data set"),
        ("train.csv", "an object of type `str` is not a data set"),
        (Mapped, "the class `Mapped` is not a data set"),
        (Lengthless(), "an object of type `Lengthless` is not a data set"),
    ],
)
def test_what_is_no_data_set(data: Any, message: str) -> None:
    error = refusal(data)
    assert (error.code, error.message) == ("bad_dataset", message)


def test_a_data_set_without_a_length_is_told_so() -> None:
    assert refusal(Lengthless()).facts == ("it has `__getitem__` but no `__len__`",)


def test_samples_that_can_not_be_collated() -> None:
    error = refusal([torch.zeros(2 + index) for index in range(3)])
    assert (error.code, error.message) == ("bad_collate", "3 samples can't be collated into a batch")
    assert "stack expects each tensor to be equal size" in error.facts[0]


def test_a_loader_whose_data_set_makes_the_batches() -> None:
    with pytest.raises(TargetError) as caught:
        check_loader(DataLoader(Stream(4), batch_size=None))
    assert caught.value.code == "unbatched_loader"


def test_synthetic_samples() -> None:
    inputs, targets = SyntheticSamples((3, 8, 8), classes=10).batch(4, 0)
    assert inputs.shape == (4, 3, 8, 8)
    assert targets.shape == (4,)
    assert int(targets.max()) < 10
    assert SyntheticSamples((5,), classes=None).batch(2, 0).shape == (2, 5)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (INPUTS, "float32[20, 2]"),
        ((INPUTS, TARGETS), "(float32[20, 2], int64[20])"),
        ({"x": INPUTS, "names": ["a"]}, "{x: float32[20, 2], names: (str)}"),
        ([1] * 9, "(int, int, int, int, int, int, ...)"),
        (np.zeros(3, dtype=np.uint8), "uint8[3]"),
        (None, "NoneType"),
    ],
)
def test_what_a_batch_is_made_of(batch: Any, told: str) -> None:
    assert describe_batch(batch) == told

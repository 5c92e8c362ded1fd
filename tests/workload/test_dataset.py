"""Batches of exactly n samples from whatever people call a data set, and the errors where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
)

from autobatch.records.errors import TargetError
from autobatch.workload.dataset import open_samples
from tests.workload.datasets import INPUTS, TARGETS, Mapped, Stream


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


def test_what_a_data_set_is_called() -> None:
    assert open_samples((INPUTS, TARGETS)).kind == "2 tensors"
    assert open_samples((INPUTS.numpy(),)).kind == "1 array"
    assert open_samples(Mapped()).kind == "Mapped"


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
    assert error.facts[1].startswith("at datasets.py:")
    assert error.hint


def test_arrays_of_unequal_length() -> None:
    error = refusal((INPUTS, TARGETS[:-1]))
    assert error.code == "bad_dataset"
    assert error.facts == ("array 0: shape (20, 2)", "array 1: shape (19,)")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, "an object of type `int` is not a data set"),
        ({"train": TensorDataset(INPUTS)}, "an object of type `dict` is not a data set"),
        ("train.csv", "an object of type `str` is not a data set"),
        (Mapped, "the class `Mapped` is not a data set"),
        (Lengthless(), "an object of type `Lengthless` is not a data set"),
    ],
)
def test_what_is_no_data_set(data: Any, message: str) -> None:
    error = refusal(data)
    assert (error.code, error.message) == ("bad_dataset", message)


def test_a_dict_of_arrays_has_samples_with_its_keys() -> None:
    samples = open_samples({"rows": INPUTS, "labels": TARGETS})
    assert samples.size == len(INPUTS)
    batch = samples.batch(4, 0)
    assert {key: len(value) for key, value in batch.items()} == {"rows": 4, "labels": 4}


def test_columns_in_a_list_are_no_samples() -> None:
    error = refusal([INPUTS, TARGETS])
    assert error.message == "the data set is a list of 2 arrays with 20 rows each"
    assert "tuple" in error.hint
    assert open_samples([INPUTS[:, 0], INPUTS[:, 1]]).size == 2


def test_a_data_set_without_a_length_is_told_so() -> None:
    assert refusal({"train": TensorDataset(INPUTS)}).facts == ()
    assert refusal(Lengthless()).facts == ("it has `__getitem__` but no `__len__`",)

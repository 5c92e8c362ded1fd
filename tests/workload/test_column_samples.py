"""Samples of columns: lists, sparse matrices and data frames beside arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autobatch.records.errors import TargetError
from autobatch.workload.dataset import open_samples

TARGETS = list(range(6))


class Sparse:
    """What a sparse matrix of SciPy's has: rows by `tocsr`, no length."""

    shape = (6, 4)
    ndim = 2

    def __init__(self, rows: np.ndarray[Any, Any]) -> None:
        self._rows = rows

    def tocsr(self) -> Sparse:
        return self

    def toarray(self) -> np.ndarray[Any, Any]:
        return self._rows

    def __getitem__(self, indices: list[int]) -> Sparse:
        return Sparse(self._rows[indices])

    def __len__(self) -> int:
        raise TypeError("sparse matrix length is ambiguous")


class Series:
    """What a column of pandas has: labels in place of positions, and its values as an array."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, label: str) -> Any:
        raise KeyError(label)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.array(self._values, dtype)


def whole(samples: Any) -> dict[int, Any]:
    """The inputs of all samples by their target."""
    inputs, targets = samples.batch(samples.size, 0)
    return dict(zip(targets.tolist(), inputs, strict=True))


def test_two_lists_are_inputs_and_targets() -> None:
    """skorch 131; tabnet 492: columns that aren't arrays."""
    samples = open_samples(([[float(i), 2.0 * i] for i in TARGETS], TARGETS))
    assert samples.size == 6
    rows = whole(samples)
    assert {i: row.tolist() for i, row in rows.items()} == {i: [i, 2 * i] for i in TARGETS}
    assert rows[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rows_of_a_sparse_matrix_are_made_dense_in_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    dense = np.arange(24.0).reshape(6, 4)
    samples = open_samples((Sparse(dense), np.arange(6)))
    samples.use_dtype(dtype)
    assert samples.size == 6
    assert samples.notes == ("samples: the rows of a Sparse, made dense",)
    rows = whole(samples)
    assert rows[3].dtype == dtype
    assert rows[3].tolist() == dense[3].tolist()


def test_columns_of_a_data_frame_are_taken_by_position() -> None:
    samples = open_samples((Series([0.5 * i for i in TARGETS]), Series(TARGETS)))
    assert {i: float(value) for i, value in whole(samples).items()} == {i: 0.5 * i for i in TARGETS}


def test_texts_are_a_column_too() -> None:
    samples = open_samples(([f"text {i}" for i in TARGETS], torch.arange(6)))
    assert (samples.kind, samples.size) == ("2 columns", 6)
    assert whole(samples)[4] == "text 4"


def test_a_collate_function_gets_the_entries_of_lists_as_they_are() -> None:
    def collate(rows: list[Any]) -> Any:
        return torch.tensor([words for words, _ in rows]), torch.tensor([target for _, target in rows])

    columns = ([[place, 0] for place in TARGETS], TARGETS)
    assert {target: row.tolist() for target, row in whole(open_samples(columns, collate)).items()} == {
        place: [place, 0] for place in TARGETS
    }


def test_rows_of_several_lengths_are_left_to_the_collate_function() -> None:
    samples = open_samples(([[0] * (i + 1) for i in TARGETS], TARGETS), list)
    assert sorted(len(row) for row, _ in samples.batch(6, 0)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "data",
    [
        (([1.0], 0), ([2.0], 1), ([3.0], 2)),
        tuple([float(i), 2.0] for i in range(9)),
        ({"x": 1.0}, {"x": 2.0}, {"x": 3.0}),
        ("one", "two", "six"),
    ],
)
def test_a_tuple_of_samples_stays_one(data: Any) -> None:
    assert open_samples(data).size == len(data)


def test_columns_of_several_lengths_are_an_error_that_names_them() -> None:
    """skorch 131; tabnet 492: columns that aren't arrays."""
    with pytest.raises(TargetError) as caught:
        open_samples((TARGETS, TARGETS[:5]))
    assert caught.value.code == "bad_dataset"
    assert caught.value.facts == ("column 0: list of 6", "column 1: list of 5")
    assert caught.value.hint

"""Samples of columns that aren't all arrays, such as lists, sparse matrices and data frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from autobatch.records.errors import TargetError
from autobatch.workload.array_samples import as_tensor
from autobatch.workload.mapped_samples import MappedSamples
from autobatch.workload.samples import Collate

_NUMPY = (np.ndarray, np.generic)
# Kinds of parts that make a tuple of samples, in place of a tuple of columns.
_RECORDS = (tuple, Mapping, str, bytes)


class ColumnSamples(MappedSamples):
    """Rows of columns of one length."""

    def __init__(self, columns: tuple[Any, ...], collate: Collate | None, notes: tuple[str, ...]) -> None:
        self._columns = columns
        rows = _Rows(columns, torch.get_default_dtype())
        super().__init__(rows, collate, notes, f"{len(columns)} columns")

    def use_dtype(self, dtype: torch.dtype) -> None:
        self._dataset = _Rows(self._columns, dtype)


class _Rows:
    """A map-style view of columns: sample i is a tuple of entry i of each, NumPy's float64 as `dtype`."""

    def __init__(self, columns: tuple[Any, ...], dtype: torch.dtype) -> None:
        self._columns = columns
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        entries = (column[index] for column in self._columns)
        return tuple(
            as_tensor(np.asarray(entry), self._dtype) if isinstance(entry, _NUMPY) else entry
            for entry in entries
        )


class _SparseRows:
    """The rows of a sparse matrix of SciPy's, made dense one at a time."""

    def __init__(self, matrix: Any) -> None:
        # Other formats can't be indexed.
        self._matrix = matrix.tocsr()

    def __len__(self) -> int:
        return int(self._matrix.shape[0])

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        row: np.ndarray[Any, Any] = self._matrix[[index]].toarray()[0]
        return row


def as_columns(data: Any, collate: Collate | None = None) -> tuple[Any, ...] | None:
    """The columns in a tuple, as arrays where they can be; None where it is a tuple of samples.

    A tuple has columns where each part has at least as many entries as the tuple has parts. `collate`: gets
    the entries of lists as they are. Raises TargetError where columns differ in length.
    """
    if not isinstance(data, tuple) or not data or not all(map(_is_column, data)):
        return None
    lengths = [_length(part) for part in data]
    if min(lengths) < len(data):
        return None
    if len(set(lengths)) > 1:
        raise TargetError(
            "the columns of the data set differ in length",
            code="bad_dataset",
            facts=tuple(
                f"column {i}: {type(part).__name__} of {length:,}"
                for i, (part, length) in enumerate(zip(data, lengths, strict=True))
            ),
            hint="each column has an entry for each sample; for a data set of these samples, give a list",
        )
    return tuple(part if collate and isinstance(part, list) else _as_array(part) for part in data)


def notes_on(data: tuple[Any, ...]) -> tuple[str, ...]:
    """The note on columns whose rows are made dense."""
    sparse = [type(part).__name__ for part in data if _is_sparse(part)]
    return (f"samples: the rows of a {sparse[0]}, made dense",) if sparse else ()


def _is_column(part: Any) -> bool:
    sized = hasattr(part, "__getitem__") and (hasattr(part, "__len__") or _is_sparse(part))
    return sized and not isinstance(part, _RECORDS) and getattr(part, "ndim", 1) > 0


def _is_sparse(part: Any) -> bool:
    return hasattr(part, "tocsr") and hasattr(part, "toarray")


def _length(part: Any) -> int:
    # The `len` of a sparse matrix is an error.
    return int(part.shape[0]) if _is_sparse(part) else len(part)


def _as_array(part: Any) -> Any:
    """The column as an array, if its entries are numbers of one shape; a list of others."""
    if _is_sparse(part):
        return _SparseRows(part)
    if isinstance(part, torch.Tensor):
        return part
    if isinstance(part, list) and part and isinstance(part[0], torch.Tensor):
        return part
    try:
        array = np.asarray(part)
    except ValueError:
        # Rows of several lengths.
        return part
    if array.dtype.kind in "biufc":
        return array
    return part if isinstance(part, list) else list(array)

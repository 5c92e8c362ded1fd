"""Samples of tensors and NumPy arrays with one row a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from autobatch.devices.torch_internals import tree_leaves, tree_map
from autobatch.records.errors import TargetError
from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.mapped_samples import MappedSamples
from autobatch.workload.samples import Collate

_NOTE = "NumPy float64 arrays taken as {}"
_DOUBLE = torch.float64


class ArraySamples(MappedSamples):
    """Rows of an array, or of arrays that share their first dimension, in tuples and dicts of any depth."""

    def __init__(self, arrays: Any, collate: Collate | None) -> None:
        """Raises TargetError where the arrays differ in length."""
        leaves = tree_leaves(arrays)
        _check_lengths(leaves)
        self._arrays = arrays
        noun = "array" if isinstance(leaves[0], np.ndarray) else "tensor"
        kind = f"{len(leaves)} {noun}s" if len(leaves) > 1 else f"1 {noun}"
        super().__init__(_Rows(arrays), collate, kind=kind)
        self.use_dtype(torch.get_default_dtype())

    def use_dtype(self, dtype: torch.dtype) -> None:
        doubles = any(map(_is_double, tree_leaves(self._arrays)))
        self.notes = (
            (_NOTE.format(str(dtype).removeprefix("torch.")),) if doubles and dtype != _DOUBLE else ()
        )
        self._dataset = self._rows = _Rows(tree_map(lambda array: as_tensor(array, dtype), self._arrays))

    def rows(self, indices: Sequence[int]) -> Any:
        if self.bulk_indexing and self._collate is default_collate:
            return self._rows.collated(list(indices))
        return super().rows(indices)

    def loader(
        self, settings: LoaderSettings, batch_size: int, workers: int, seed: int
    ) -> DataLoader[Any] | None:
        # Keras indexes arrays without a DataLoader, so there is none to time.
        return None if self.bulk_indexing else super().loader(settings, batch_size, workers, seed)


class _Rows:
    """A map-style view of arrays: sample i is row i of each."""

    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays
        self._size = len(tree_leaves(arrays)[0])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Any:
        return tree_map(lambda array: array[index], self._arrays)

    def collated(self, indices: list[int]) -> Any:
        """The batch that `default_collate` makes of these rows."""
        batch = tree_map(lambda array: array[indices], self._arrays)
        return list(batch) if isinstance(batch, tuple) else batch


def is_array(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray))


def as_tensor(array: Any, dtype: torch.dtype) -> torch.Tensor:
    """The array as a tensor, float64 of NumPy as `dtype`: that of the model, since it takes no other."""
    tensor = torch.as_tensor(array)
    return tensor.to(dtype) if _is_double(array) else tensor


def _is_double(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.float64


def _check_lengths(arrays: Sequence[Any]) -> None:
    if len({len(array) for array in arrays}) > 1:
        raise TargetError(
            "the arrays of the data set differ in length",
            code="bad_dataset",
            facts=tuple(f"array {i}: shape {tuple(array.shape)}" for i, array in enumerate(arrays)),
            hint="the first dimension of each is the number of samples",
        )

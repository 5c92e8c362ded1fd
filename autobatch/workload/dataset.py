"""Opens the objects that people use as a data set."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from autobatch.devices.torch_internals import tree_leaves
from autobatch.records.errors import TargetError
from autobatch.workload import sampling
from autobatch.workload.array_samples import ArraySamples, is_array
from autobatch.workload.column_samples import ColumnSamples, as_columns, notes_on
from autobatch.workload.data_loader import check_loader
from autobatch.workload.keras import detection
from autobatch.workload.mapped_samples import MappedSamples
from autobatch.workload.samples import Collate, Samples, empty_dataset
from autobatch.workload.streamed_samples import StreamedSamples


def open_samples(data: Any, collate: Collate | None = None, sampler: Any = None) -> Samples:
    """Samples of a Dataset, a DataLoader, an iterable of samples, or arrays with one row a sample.

    `sampler`: chooses the samples of an epoch; None for the whole data set. A DataLoader brings its own.
    Raises TargetError where `data` is empty or is none of these.
    """
    if isinstance(data, DataLoader):
        check_loader(data)
        return open_samples(data.dataset, collate or data.collate_fn, sampling.sampler_of(data))
    if sampler is not None:
        chosen, notes = sampling.sampled(data, sampler)
        return _checked(MappedSamples(chosen, collate, notes, type(data).__name__))
    leaves = tree_leaves(data) if isinstance(data, (tuple, dict)) else []
    if is_array(data) or (leaves and all(map(is_array, leaves))):
        return _checked(ArraySamples(data, collate))
    columns = as_columns(data, collate)
    if columns is not None:
        arrays = all(map(is_array, columns))
        return _checked(
            ArraySamples(columns, collate) if arrays else ColumnSamples(columns, collate, notes_on(data))
        )
    _refuse_columns_in_a_list(data)
    detection.refuse_batches(data)
    if isinstance(data, IterableDataset):
        return StreamedSamples(data, collate)
    usable = not isinstance(data, (dict, str, bytes)) and not inspect.isclass(data)
    if usable and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _checked(MappedSamples(data, collate))
    if usable and isinstance(data, Iterable):
        return StreamedSamples(data, collate)
    raise TargetError(
        f"{_described(data)} is not a data set",
        code="bad_dataset",
        facts=("it has `__getitem__` but no `__len__`",) if usable and hasattr(data, "__getitem__") else (),
        hint="give a torch Dataset, a DataLoader, or a tuple of tensors or arrays with one row a sample",
    )


def _refuse_columns_in_a_list(data: Any) -> None:
    """Raises TargetError for few arrays of many rows: they are columns, and a list has samples."""
    if not isinstance(data, list) or not data or not all(map(is_array, data)):
        return
    kinds = {(array.dtype, tuple(array.shape)) for array in data}
    rows = {shape[:1] for _, shape in kinds}
    if len(kinds) > 1 and len(rows) == 1 and () not in rows and len(data) < len(data[0]):
        raise TargetError(
            f"the data set is a list of {len(data)} arrays with {len(data[0]):,} rows each",
            code="bad_dataset",
            facts=(f"as a list of samples it has only {len(data)}",),
            hint="give a tuple of them, such as `(inputs, targets)`",
        )


def _described(data: Any) -> str:
    if inspect.isclass(data):
        return f"the class `{data.__name__}`"
    return f"an object of type `{type(data).__name__}`"


def _checked(samples: MappedSamples) -> MappedSamples:
    if samples.size == 0:
        raise empty_dataset("its `len()` is 0", samples.kind)
    return samples

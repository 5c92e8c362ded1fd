"""Batches of exactly n samples, from whatever people call a data set."""

from __future__ import annotations

import inspect
import itertools
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from autobatch.devices.torch_internals import tree_leaves, tree_map
from autobatch.records.errors import TargetError
from autobatch.records.workload import SampleSizes
from autobatch.workload import sample_size
from autobatch.workload.batches import split_batch
from autobatch.workload.data_loader import LoaderSettings, check_loader, make_loader
from autobatch.workload.keras import detection
from autobatch.workload.sample_size import Extent, Scan
from autobatch.workload.user_errors import describe_error, location_of

Collate = Callable[[list[Any]], Any]

_TOLD_PARTS = 6
# The largest samples are rare and decide on memory: so all are looked at, if there is time. That others keep
# the processor busy is no reason to look at fewer.
_MOST_SCANNED, _SCAN_SECONDS, _SCAN_PROCESSOR_SECONDS = 100_000, 5.0, 2.0
# So many of one size, drawn at random, are believed to speak for the others.
_ALIKE = 2048


class Samples(ABC):
    """A source of batches. `size` is the number of samples, None where nobody knows.

    `bulk_indexing`: rows of arrays are taken all at once, as Keras does. A DataLoader takes them one by one.
    `kept`: they are read only once, so that loading a batch again says nothing of the time that it takes.
    `found`: what a scan has found in the samples; None where there was none.
    """

    kind: str
    size: int | None
    synthetic = False
    notes: tuple[str, ...] = ()
    bulk_indexing = False
    kept = False
    found: Scan | None = None

    @abstractmethod
    def batch(self, batch_size: int, seed: int) -> Any:
        """A collated batch of exactly `batch_size` samples, the same for the same seed.

        Raises TargetError where a sample can't be read or the samples can't be collated.
        """

    def rows(self, indices: Sequence[int]) -> Any:
        """A collated batch of these samples. Raises TargetError like `batch`, and for a stream."""
        raise TargetError(f"the samples of {self.kind} can't be picked one by one", code="no_rows")

    def scan(self, seed: int) -> None:
        """Looks at samples for how large they are, as many as there is time for; `found` says what came."""
        self.found = None

    def loader(
        self, settings: LoaderSettings, batch_size: int, workers: int, seed: int
    ) -> DataLoader[Any] | None:
        """A DataLoader over these samples, to be timed; None where they can't be read once more."""
        return None

    @property
    def sizes(self) -> SampleSizes | None:
        """How large the samples are that were looked at so far."""
        return None if self.found is None else self.found.sizes

    @property
    def vary(self) -> bool:
        return self.sizes is not None and self.sizes.vary

    @abstractmethod
    def largest(self, batch_size: int, seed: int) -> Any:
        """The largest batch that a data set may give, by the largest samples known (see `extent.worst`).

        Of a stream, the largest of those that were read. Where all are of one size it is that of `batch`.
        Raises like `batch`.
        """

    @abstractmethod
    def repeated(self, batch_size: int) -> Any:
        """A batch that is `batch_size` times the largest sample known. Raises like `batch`."""


class MappedSamples(Samples):
    """Samples drawn without replacement from a map-style data set."""

    def __init__(
        self, dataset: Any, collate: Collate | None, notes: tuple[str, ...] = (), kind: str = ""
    ) -> None:
        self._dataset = dataset
        self._collate = collate or default_collate
        self.kind = kind or type(dataset).__name__
        self.size = len(dataset)
        self.notes = notes

    def batch(self, batch_size: int, seed: int) -> Any:
        return self.rows(random.Random(seed).sample(range(self.size or 0), batch_size))

    def rows(self, indices: Sequence[int]) -> Any:
        if self.bulk_indexing and isinstance(self._dataset, _Columns) and self._collate is default_collate:
            return self._dataset.rows(list(indices))
        return _collate(self._read(list(indices)), self._collate)

    def scan(self, seed: int) -> None:
        deadline, work = time.perf_counter() + _SCAN_SECONDS, time.thread_time() + _SCAN_PROCESSOR_SECONDS
        size = self.size or 0
        places: list[int] = []
        extents: list[Extent] = []
        with random_state_kept():
            for place in random.Random(seed).sample(range(size), min(size, _MOST_SCANNED)):
                # A sample that can't be read is told of when a batch needs it.
                with suppress(TargetError):
                    extents.append(_extent_of(self._read([place])[0]))
                    places.append(place)
                if time.perf_counter() > deadline or time.thread_time() > work:
                    break
                if len(extents) == _ALIKE and len(set(extents)) == 1:
                    break
        self.found = sample_size.scan_of(places, extents) if places else None

    def largest(self, batch_size: int, seed: int) -> Any:
        if self.found is None or not self.vary:
            return self.batch(batch_size, seed)
        return self.rows(sample_size.worst(self.found.largest, batch_size, self.size or 0))

    def repeated(self, batch_size: int) -> Any:
        place = self.found.largest[0] if self.found is not None and self.vary else 0
        return self.rows([place] * batch_size)

    def loader(
        self, settings: LoaderSettings, batch_size: int, workers: int, seed: int
    ) -> DataLoader[Any] | None:
        if self.bulk_indexing and isinstance(self._dataset, _Columns):
            return None
        return make_loader(self._dataset, self._collate, settings, batch_size, workers, seed)

    def _read(self, indices: list[int]) -> list[Any]:
        if hasattr(self._dataset, "__getitems__"):
            try:
                return self._complete(list(self._dataset.__getitems__(indices)), len(indices))
            except Exception as error:
                call = f"dataset.__getitems__({indices[:3]})"
                raise self._unreadable(f"{len(indices)} samples at once", call, error) from error
        return [self._read_one(index) for index in indices]

    @staticmethod
    def _complete(found: list[Any], asked: int) -> list[Any]:
        # A smaller batch than the one asked for would be timed as if it were whole.
        if len(found) != asked:
            raise ValueError(f"asked for {asked} samples, got {len(found)}")
        return found

    def _read_one(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except Exception as error:
            raise self._unreadable(f"sample {index}", f"dataset[{index}]", error) from error

    def _unreadable(self, what: str, call: str, error: Exception) -> TargetError:
        return TargetError(
            f"the data set can't give {what}",
            code="bad_sample",
            facts=(
                describe_error(error),
                *location_of(error),
                f"the data set says it has {self.size:,} samples",
            ),
            hint=f"try `{call}` by itself",
        )


class StreamedSamples(Samples):
    """Samples from an iterable, read once and kept, since a stream can't be asked twice."""

    kept = True

    def __init__(self, dataset: Iterable[Any], collate: Collate | None) -> None:
        self._dataset = dataset
        self._stream = _told_reading(iter(dataset), type(dataset).__name__)
        self._kept: list[Any] = []
        self._extents: list[Extent] = []
        self._collate = collate or default_collate
        self.kind = type(dataset).__name__
        self.size = len(dataset) if isinstance(dataset, Sized) else None

    def batch(self, batch_size: int, seed: int) -> Any:
        self._keep(batch_size)
        return _collate(self._kept[:batch_size], self._collate)

    def loader(
        self, settings: LoaderSettings, batch_size: int, workers: int, seed: int
    ) -> DataLoader[Any] | None:
        # Anything but an IterableDataset may be a generator, which is half read by now.
        if not isinstance(self._dataset, IterableDataset):
            return None
        return make_loader(self._dataset, self._collate, settings, batch_size, workers, seed)

    @property
    def sizes(self) -> SampleSizes | None:
        return sample_size.sum_up(self._extents) if self._extents else None

    def largest(self, batch_size: int, seed: int) -> Any:
        self._keep(batch_size)
        order = sample_size.largest_first(self._extents)[:batch_size]
        return _collate([self._kept[place] for place in order], self._collate)

    def repeated(self, batch_size: int) -> Any:
        self._keep(1)
        place = sample_size.largest_first(self._extents)[0]
        return _collate([self._kept[place]] * batch_size, self._collate)

    def _keep(self, count: int) -> None:
        """Reads on until `count` samples are kept: only those that a batch needs, since they take memory."""
        for sample in itertools.islice(self._stream, max(0, count - len(self._kept))):
            self._kept.append(sample)
            self._extents.append(_extent_of(sample))
        if not self._kept:
            raise _empty("it gives no sample", self.kind)
        if len(self._kept) < count:
            self.size = len(self._kept)
            raise StreamEndedError(self.size)


class StreamEndedError(Exception):
    """A stream had fewer samples than a batch needs; `size` is how many there were."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the data set ended after {size} samples")
        self.size = size


class SyntheticSamples(Samples):
    """Random inputs of one shape, and random classes: good for memory and speed, never for learning."""

    kind = "synthetic inputs"
    size = None
    synthetic = True

    def __init__(self, input_shape: Sequence[int], classes: int | None) -> None:
        self._shape = tuple(input_shape)
        self._classes = classes

    def batch(self, batch_size: int, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(batch_size, *self._shape, generator=generator)
        if self._classes is None:
            return inputs
        return inputs, torch.randint(self._classes, (batch_size,), generator=generator)

    def largest(self, batch_size: int, seed: int) -> Any:
        return self.batch(batch_size, seed)

    def repeated(self, batch_size: int) -> Any:
        return self.batch(batch_size, 0)


class _Columns:
    """A map-style view of arrays that share their first dimension, in tuples and dicts of any depth."""

    def __init__(self, arrays: tuple[Any, ...]) -> None:
        self._arrays = arrays
        self._size = len(tree_leaves(arrays)[0])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Any:
        return tree_map(lambda array: array[index], self._arrays)

    def rows(self, indices: list[int]) -> Any:
        """The batch that `default_collate` makes of these rows."""
        return list(tree_map(lambda array: array[indices], self._arrays))


def open_samples(data: Any, collate: Collate | None = None) -> Samples:
    """Samples of a Dataset, a DataLoader, an iterable of samples, or arrays with one row a sample.

    Raises TargetError where `data` is empty or no such thing.
    """
    if isinstance(data, DataLoader):
        return _open_loader(data, collate)
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return _checked(MappedSamples(_as_tensor(data), collate, _array_notes((data,))))
    leaves = tree_leaves(data) if isinstance(data, tuple) else []
    if leaves and all(isinstance(one, (torch.Tensor, np.ndarray)) for one in leaves):
        return _open_arrays(data, leaves, collate)
    detection.refuse_batches(data)
    if isinstance(data, IterableDataset):
        return StreamedSamples(data, collate)
    usable = not isinstance(data, (dict, str, bytes)) and not inspect.isclass(data)
    if usable and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _checked(MappedSamples(data, collate))
    if usable and isinstance(data, Iterable):
        return StreamedSamples(data, collate)
    raise TargetError(
        f"{_called(data)} is not a data set",
        code="bad_dataset",
        facts=("it has `__getitem__` but no `__len__`",) if hasattr(data, "__getitem__") else (),
        hint="give a torch Dataset, a DataLoader, or a tuple of tensors or arrays with one row a sample",
    )


def describe_batch(batch: Any) -> str:
    """`(float32[8, 3, 32, 32], int64[8])`: what a batch is made of, its first parts only."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        parts = [f"{key}: {describe_batch(batch[key])}" for key in itertools.islice(batch, _TOLD_PARTS)]
        return f"{{{_listed(parts, len(batch))}}}"
    if isinstance(batch, (list, tuple)):
        parts = [describe_batch(one) for one in batch[:_TOLD_PARTS]]
        return f"({_listed(parts, len(batch))})"
    return type(batch).__name__


def _listed(parts: list[str], count: int) -> str:
    return ", ".join([*parts, "..."] if count > len(parts) else parts)


def _open_loader(loader: DataLoader[Any], collate: Collate | None) -> Samples:
    check_loader(loader)
    return open_samples(loader.dataset, collate or loader.collate_fn)


def _open_arrays(data: tuple[Any, ...], arrays: list[Any], collate: Collate | None) -> Samples:
    """Samples of the `arrays` that are the leaves of `data`."""
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise TargetError(
            "the arrays of the data set differ in length",
            code="bad_dataset",
            facts=tuple(f"array {i}: shape {tuple(array.shape)}" for i, array in enumerate(arrays)),
            hint="the first dimension of each is the number of samples",
        )
    columns = _Columns(tree_map(_as_tensor, data))
    what = "array" if isinstance(arrays[0], np.ndarray) else "tensor"
    kind = f"{len(arrays)} {what}s" if len(arrays) > 1 else f"1 {what}"
    return _checked(MappedSamples(columns, collate, _array_notes(arrays), kind))


def _as_tensor(array: Any) -> torch.Tensor:
    """NumPy's default of float64 becomes torch's default dtype, or no ordinary model would take it."""
    if isinstance(array, torch.Tensor):
        return array
    tensor = torch.as_tensor(array)
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def _array_notes(arrays: Sequence[Any]) -> tuple[str, ...]:
    doubles = any(isinstance(array, np.ndarray) and array.dtype == np.float64 for array in arrays)
    return ("NumPy float64 arrays taken as float32",) if doubles else ()


def _checked(samples: MappedSamples) -> MappedSamples:
    if samples.size == 0:
        raise _empty("its `len()` is 0", samples.kind)
    return samples


def _extent_of(sample: Any) -> Extent:
    return sample_size.extent_of(sample, split_batch(sample)[0])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Reading samples early must not change what is drawn later, such as the model's first weights."""
    python, numbers, drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(drawn)


def _empty(fact: str, kind: str) -> TargetError:
    return TargetError(
        "the data set is empty",
        code="empty_dataset",
        facts=(f"{fact} ({kind})",),
        hint="check the path or the filter that it is made from",
    )


def _told_reading(stream: Iterator[Any], kind: str) -> Iterator[Any]:
    """The same stream, its errors told as errors of the data set."""
    for count in itertools.count():
        try:
            sample = next(stream)
        except StopIteration:
            return
        except Exception as error:
            raise TargetError(
                f"the data set can't give sample {count}",
                code="bad_sample",
                facts=(describe_error(error), *location_of(error), f"it is {kind}, read from its beginning"),
                hint="try `list(dataset)` by itself",
            ) from error
        yield sample


def _called(data: Any) -> str:
    return (
        f"the class `{data.__name__}`"
        if inspect.isclass(data)
        else f"an object of type `{type(data).__name__}`"
    )


def _collate(samples: list[Any], collate: Collate) -> Any:
    try:
        return collate(samples)
    except TargetError:
        raise
    except (TypeError, RuntimeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise TargetError(
            f"{len(samples)} samples can't be collated into a batch",
            code="bad_collate",
            facts=(describe_error(error), *location_of(error)),
            hint="give a `collate_fn` that pads or stacks these samples",
        ) from error

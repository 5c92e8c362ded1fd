"""The protocol of samples: a source of batches of exactly n samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from autobatch.devices.torch_internals import tree_leaves
from autobatch.records.errors import TargetError
from autobatch.records.workload import SampleSizes
from autobatch.workload import sample_size
from autobatch.workload.batches import describe_batch, split_batch
from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.sample_size import Extent, Scan
from autobatch.workload.user_errors import describe_error, location_of

Collate = Callable[[list[Any]], Any]
_LARGEST_EXAMPLE = 64


class Samples(ABC):
    """A source of batches. `size` is the number of samples, None where it is unknown.

    `kind` describes the data set, `notes` its changes. `synthetic`: the samples are random numbers.
    `bulk_indexing`: rows of arrays are taken all at once, as Keras does. A DataLoader takes them one by one.
    `kept`: each sample is read only once, so that loading a batch again takes no time. `scanned`: the result
    of a scan; None without one. `keys`: the data set's index of each sample, where a sampler may draw some
    more than once.
    """

    kind: str
    size: int | None
    synthetic = False
    notes: tuple[str, ...] = ()
    bulk_indexing = False
    kept = False
    scanned: Scan | None = None
    keys: Sequence[Any] | None = None

    @abstractmethod
    def batch(self, batch_size: int, seed: int) -> Any:
        """A collated batch of exactly `batch_size` samples, the same for the same seed.

        Raises TargetError where a sample can't be read or the samples can't be collated.
        """

    @abstractmethod
    def largest(self, batch_size: int, seed: int) -> Any:
        """The largest batch that the data set may give, by the largest samples read (`sample_size.worst`).

        It is that of `batch` where all samples are of one size. Raises like `batch`.
        """

    @abstractmethod
    def repeated(self, batch_size: int) -> Any:
        """A batch that repeats the largest sample read `batch_size` times. Raises like `batch`."""

    def example(self) -> Any:
        """The smallest batch of 1, 2, 4 ... samples that can be collated: samples may need others.

        Raises the error of a single sample where there is none.
        """
        try:
            return self.batch(1, 0)
        except TargetError:
            size = 2
            while size <= min(_LARGEST_EXAMPLE, self.size or _LARGEST_EXAMPLE):
                with suppress(Exception):
                    return self.batch(size, 0)
                size *= 2
            raise

    def use_dtype(self, dtype: torch.dtype) -> None:
        """Takes NumPy's float64, the default of its arrays, as `dtype` from here on."""
        return

    def rows(self, indices: Sequence[int]) -> Any:
        """A collated batch of these samples. Raises TargetError like `batch`, and for a stream."""
        raise TargetError(f"the samples of {self.kind} can't be picked one by one", code="no_rows")

    def scan(self, seed: int) -> None:
        """Reads samples for their sizes, as many as the time allows, into `scanned`."""
        self.scanned = None

    def loader(
        self, settings: LoaderSettings, batch_size: int, workers: int, seed: int
    ) -> DataLoader[Any] | None:
        """A DataLoader over these samples, to be timed; None where they can't be read again."""
        return None

    @property
    def sizes(self) -> SampleSizes | None:
        """The sizes of the samples that were read so far."""
        return None if self.scanned is None else self.scanned.sizes

    @property
    def vary(self) -> bool:
        return self.sizes is not None and self.sizes.vary


def extent_of_sample(sample: Any, collate: Collate) -> Extent | None:
    """The extent of a sample that is (inputs, target), a dict, or inputs alone; None where it is unknown.

    A sample that hides its size, such as the path of a file, is measured as a batch of one.
    """
    extent = sample_size.extent_of(sample, split_batch(sample)[0])
    if not sample_size.is_opaque(sample):
        return extent
    if collate is not default_collate:
        # A sample that can't be collated alone is an error only when a batch needs it.
        with suppress(Exception):
            batch = collate([sample])
            if not sample_size.is_opaque(batch):
                return Extent(sample_size.extent_of(batch, batch).elements, None)
    return extent if sample_size.is_plain(sample) else None


def collated(samples: list[Any], collate: Collate) -> Any:
    """The batch of these samples. Raises TargetError where they can't be collated."""
    try:
        batch = collate(samples)
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(
            f"{_counted(samples)} can't be collated into a batch",
            code="bad_collate",
            facts=(describe_error(error), *location_of(error)),
            hint="give a `collate_fn` that pads or stacks these samples",
        ) from error
    if _is_empty(batch):
        raise TargetError(
            f"the `collate_fn` makes an empty batch of {_counted(samples)}",
            code="bad_collate",
            facts=(f"the batch: {describe_batch(batch)}",),
            hint="leave out sizes at which it may drop all samples of a batch by `--min-batch`",
        )
    return batch


def _is_empty(batch: Any) -> bool:
    """True where nothing is in the batch, or none of its tensors has a number."""
    leaves = [leaf for leaf in tree_leaves(batch) if leaf is not None]
    return not leaves or all(isinstance(leaf, torch.Tensor) and leaf.numel() == 0 for leaf in leaves)


def _counted(samples: list[Any]) -> str:
    return f"{len(samples):,} sample{'' if len(samples) == 1 else 's'}"


def empty_dataset(fact: str, kind: str) -> TargetError:
    """The error for a data set without samples."""
    return TargetError(
        "the data set is empty",
        code="empty_dataset",
        facts=(f"{fact} ({kind})",),
        hint="check the path or the filter that it is made from",
    )

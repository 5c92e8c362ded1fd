"""Samples of a stream: an IterableDataset, a generator, any other iterable."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, default_collate

from autobatch.records.errors import TargetError
from autobatch.records.workload import SampleSizes
from autobatch.workload import sample_size
from autobatch.workload.data_loader import LoaderSettings, make_loader
from autobatch.workload.sample_size import Extent
from autobatch.workload.samples import Collate, Samples, collated, empty_dataset, extent_of_sample
from autobatch.workload.user_errors import describe_error, location_of

# Samples that hide their sizes are taken as alike.
_UNKNOWN = Extent(1, None)


class StreamEndedError(Exception):
    """A stream had fewer samples than a batch needs: `size` of them."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the data set ended after {size} samples")
        self.size = size


class StreamedSamples(Samples):
    """Samples from an iterable, read once and kept, since a stream gives each sample only once."""

    kept = True

    def __init__(self, dataset: Iterable[Any], collate: Collate | None) -> None:
        self._dataset = dataset
        self._stream = _reading(iter(dataset), type(dataset).__name__)
        self._kept: list[Any] = []
        self._extents: list[Extent] = []
        self._collate = collate or default_collate
        self.kind = type(dataset).__name__
        self.size = len(dataset) if isinstance(dataset, Sized) else None

    def batch(self, batch_size: int, seed: int) -> Any:
        self._keep(batch_size)
        return collated(self._kept[:batch_size], self._collate)

    def largest(self, batch_size: int, seed: int) -> Any:
        self._keep(batch_size)
        order = sample_size.largest_first(self._extents)[:batch_size]
        return collated([self._kept[place] for place in order], self._collate)

    def repeated(self, batch_size: int) -> Any:
        self._keep(1)
        place = sample_size.largest_first(self._extents)[0]
        return collated([self._kept[place]] * batch_size, self._collate)

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

    def _keep(self, count: int) -> None:
        """Reads on until `count` samples are kept. A batch needs no more, and each takes memory."""
        for sample in itertools.islice(self._stream, max(0, count - len(self._kept))):
            self._kept.append(sample)
            self._extents.append(extent_of_sample(sample, self._collate) or _UNKNOWN)
        if not self._kept:
            raise empty_dataset("it gives no sample", self.kind)
        if len(self._kept) < count:
            self.size = len(self._kept)
            raise StreamEndedError(self.size)


def _reading(stream: Iterator[Any], kind: str) -> Iterator[Any]:
    """The same stream, whose errors become errors of the data set."""
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

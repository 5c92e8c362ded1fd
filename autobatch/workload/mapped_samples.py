"""Samples of a map-style data set."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch.utils.data import DataLoader, default_collate

from autobatch.records.errors import TargetError
from autobatch.workload import sample_size
from autobatch.workload.data_loader import LoaderSettings, make_loader
from autobatch.workload.random_state import random_state_kept
from autobatch.workload.sample_size import Extent
from autobatch.workload.samples import Collate, Samples, collated, extent_of_sample
from autobatch.workload.sampling import SampledDataset
from autobatch.workload.user_errors import describe_error, location_of

# The largest samples are rare and decide on memory, so a scan reads all of them if the time suffices. Beside
# wall time it has processor time, which a busy machine does not shorten.
_MOST_SCANNED, _SCAN_SECONDS, _SCAN_PROCESSOR_SECONDS = 100_000, 5.0, 2.0
# After so many samples of one size, drawn at random, the others are taken to have that size too.
_ALIKE = 2048
# After so many samples that hide their sizes, the others are taken to hide theirs.
_HIDDEN = 32


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
        self.keys = dataset.keys if isinstance(dataset, SampledDataset) else None

    def batch(self, batch_size: int, seed: int) -> Any:
        return self.rows(random.Random(seed).sample(range(self.size or 0), batch_size))

    def rows(self, indices: Sequence[int]) -> Any:
        return collated(self._read(list(indices)), self._collate)

    def scan(self, seed: int, most: int = _MOST_SCANNED) -> None:
        """Reads up to `most` samples, drawn at random, for their sizes."""
        deadline, work = time.perf_counter() + _SCAN_SECONDS, time.thread_time() + _SCAN_PROCESSOR_SECONDS
        size = self.size or 0
        places: list[int] = []
        extents: list[Extent] = []
        unknown = ""
        with random_state_kept():
            for read, place in enumerate(random.Random(seed).sample(range(size), min(size, most)), start=1):
                # A sample that can't be read is an error only when a batch needs it.
                with suppress(TargetError):
                    sample = self._read([place])[0]
                    extent = extent_of_sample(sample, self._collate)
                    if extent is None:
                        unknown = type(sample).__name__
                    else:
                        extents.append(extent)
                        places.append(place)
                if time.perf_counter() > deadline or time.thread_time() > work:
                    break
                if unknown and not places and read == _HIDDEN:
                    break
                if len(extents) == _ALIKE and len(set(extents)) == 1:
                    break
        self.scanned = sample_size.scan_of(places, extents) if places else None
        if unknown and not places:
            self.notes += (f"sizes of samples: unknown, since a {unknown} shows no arrays",)

    def largest(self, batch_size: int, seed: int) -> Any:
        if self.scanned is None or not self.vary:
            return self.batch(batch_size, seed)
        return self.rows(sample_size.worst(self.scanned.largest, batch_size, self.size or 0))

    def repeated(self, batch_size: int) -> Any:
        place = self.scanned.largest[0] if self.scanned is not None and self.vary else 0
        return self.rows([place] * batch_size)

    def loader(
        self, settings: LoaderSettings, batch_size: int, workers: int, seed: int
    ) -> DataLoader[Any] | None:
        return make_loader(self._dataset, self._collate, settings, batch_size, workers, seed)

    def _read(self, indices: list[int]) -> list[Any]:
        if not hasattr(self._dataset, "__getitems__"):
            return [self._read_sample(index) for index in indices]
        try:
            samples = list(self._dataset.__getitems__(indices))
            # A smaller batch would be timed as if it were whole.
            if len(samples) != len(indices):
                raise ValueError(f"asked for {len(indices)} samples, got {len(samples)}")
            return samples
        except Exception as error:
            call = f"dataset.__getitems__({indices[:3]})"
            raise self._unreadable(f"{len(indices)} samples at once", call, error) from error

    def _read_sample(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except Exception as error:
            raise self._unreadable(f"sample {index}", f"dataset[{index}]", error) from error

    def _unreadable(self, samples: str, call: str, error: Exception) -> TargetError:
        return TargetError(
            f"the data set can't give {samples}",
            code="bad_sample",
            facts=(
                describe_error(error),
                *location_of(error),
                f"the data set says it has {self.size:,} samples",
            ),
            hint=f"try `{call}` by itself",
        )

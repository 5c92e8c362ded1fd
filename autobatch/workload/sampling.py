"""The sampler of a DataLoader: the samples of one epoch, as a data set."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from autobatch.records.errors import TargetError
from autobatch.workload.random_state import random_state_kept
from autobatch.workload.user_errors import describe_error, location_of

# So many batches of a batch sampler are described in an error.
_BATCHES_DESCRIBED = 64


class Batches:
    """A `batch_sampler`, which alone decides which samples make a batch, and how many."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        """The indices of all batches, one after the other."""
        return (index for batch in self.sampler for index in batch)


class SampledDataset(Dataset[Any]):
    """The samples that a sampler draws in one epoch. `keys`: their indices in the data set.

    A sample that the sampler draws twice is there twice.
    """

    def __init__(self, dataset: Any, keys: Sequence[Any]) -> None:
        self.dataset = dataset
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> Any:
        return self.dataset[self.keys[place]]

    # A property, so that it exists only where the data set has it.
    @property
    def __getitems__(self) -> Callable[[list[int]], Any]:
        read = self.dataset.__getitems__
        return lambda places: read([self.keys[place] for place in places])


def sampler_of(loader: DataLoader[Any]) -> Any:
    """The sampler that chooses samples of the data set, or Batches; None where all are taken in any order.

    A DistributedSampler takes all of them too: it only shares them out among the ranks.
    """
    if isinstance(loader.dataset, IterableDataset):
        return None
    sampler: Any = loader.sampler
    if loader.batch_size is None and loader.batch_sampler is not None:
        if type(loader.batch_sampler) is not BatchSampler:
            return Batches(loader.batch_sampler)
        sampler = loader.batch_sampler.sampler
    if isinstance(sampler, DistributedSampler) or _takes_all(sampler, loader.dataset):
        return None
    return sampler


def batch_size_of(loader: DataLoader[Any]) -> int | None:
    """The batch size of a DataLoader, or of torch's BatchSampler in it; None for another batch sampler."""
    batches = loader.batch_sampler
    return loader.batch_size or (batches.batch_size if type(batches) is BatchSampler else None)


def drops_last(loader: DataLoader[Any]) -> bool:
    """True where the DataLoader leaves out a last batch that is not full."""
    batches = loader.batch_sampler
    return bool(batches.drop_last) if type(batches) is BatchSampler else loader.drop_last


def refuse_batches(sampler: Any) -> None:
    """Raises TargetError for Batches: at another size the sampler would draw other batches."""
    if not isinstance(sampler, Batches):
        return
    sizes = sorted(map(len, _drawn(sampler.sampler, _BATCHES_DESCRIBED)))
    name = type(sampler.sampler).__name__
    described = "no batches" if not sizes else f"batches of {sizes[0]:,} samples"
    if sizes and sizes[0] < sizes[-1]:
        described = f"batches of {sizes[0]:,} to {sizes[-1]:,} samples"
    raise TargetError(
        f"the DataLoader's `batch_sampler`, a {name}, alone decides on the batches",
        code="batch_sampler",
        facts=(f"it gives {described}", "batches of other sizes can't be drawn from it"),
        hint="give the DataLoader's `dataset` itself to measure batches of samples drawn at random, and set "
        f"your {name} by that answer",
    )


def sampled(dataset: Any, sampler: Any) -> tuple[Any, tuple[str, ...]]:
    """(the samples of one epoch as a data set, notes). The random state stays as it was.

    Raises TargetError for a sampler that fails, or that gives no sample.
    """
    keys = _keys(_drawn(sampler, _epoch_length(dataset, sampler)))
    name = _name(sampler)
    size = len(dataset) if hasattr(dataset, "__len__") else None
    if not keys:
        raise TargetError(
            "the data set is empty",
            code="empty_dataset",
            facts=(f"the {name} of the DataLoader gives no sample",),
            hint="check the indices that it is made from",
        )
    if size == len(keys) and isinstance(keys, array) and all(map(operator.eq, keys, range(size))):
        note = f"samples: all, by your {name}, drawn at random instead of in its order"
        return dataset, () if isinstance(sampler, RandomSampler) else (note,)
    count = f"{len(keys):,} an epoch" + ("" if size is None else f" of {size:,}")
    return SampledDataset(dataset, keys), (f"samples: {count}, by your {name}",)


def _takes_all(sampler: Any, dataset: Any) -> bool:
    """True for torch's own sampler of every sample once."""
    plain = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    return plain and len(sampler) == len(dataset)


def _epoch_length(dataset: Any, sampler: Any) -> int | None:
    """The number of samples of an epoch; at most those of the data set for a sampler that may be endless."""
    for sized in (sampler, dataset):
        if hasattr(sized, "__len__"):
            return len(sized)
    return None


def _drawn(sampler: Iterable[Any], most: int | None) -> list[Any]:
    """Up to `most` draws. Raises TargetError where the user's sampler fails."""
    try:
        with random_state_kept():
            return list(islice(iter(sampler), most))
    except Exception as error:
        raise TargetError(
            f"the {_name(sampler)} of the DataLoader raised an error",
            code="bad_sampler",
            facts=(describe_error(error), *location_of(error)),
            hint="try `list(sampler)` by itself",
        ) from error


def _keys(drawn: list[Any]) -> Sequence[Any]:
    """The draws in the order of the data set; keys that are no numbers in the order of the draws."""
    try:
        return array("q", sorted(map(operator.index, drawn)))
    except TypeError:
        return drawn


def _name(sampler: Any) -> str:
    return type(sampler.sampler if isinstance(sampler, Batches) else sampler).__name__

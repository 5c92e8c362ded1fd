"""The user's DataLoader, taken apart and made again at another batch size, and with other workers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from autobatch.records.errors import TargetError, UsageError
from autobatch.records.recommendation import Recommendation

# What every class statement leaves behind, and a constructor of its own.
_HARMLESS = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__firstlineno__"}
_HARMLESS |= {"__static_attributes__", "__orig_bases__", "__parameters__"}
_HARMLESS |= {"__annotate_func__", "__annotations_cache__"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """What a DataLoader was given beyond its data set, its batch size and its collate function."""

    workers: int = 0
    prefetch_factor: int | None = None
    persistent_workers: bool = False
    pin_memory: bool = False
    timeout_seconds: float = 0.0
    start_method: str | None = None
    worker_init_fn: Callable[[int], None] | None = None


def settings_of(data: Any) -> LoaderSettings | None:
    """The settings of a DataLoader; None for anything else."""
    if not isinstance(data, DataLoader):
        return None
    context: Any = data.multiprocessing_context
    return LoaderSettings(
        workers=data.num_workers,
        prefetch_factor=data.prefetch_factor,
        persistent_workers=data.persistent_workers,
        pin_memory=data.pin_memory,
        timeout_seconds=data.timeout,
        # A context can't be sent to another process; its name says all.
        start_method=None if context is None else context.get_start_method(),
        worker_init_fn=data.worker_init_fn,
    )


def check_loader(loader: DataLoader[Any]) -> None:
    """Raises TargetError for a DataLoader whose data set makes the batches itself."""
    if loader.batch_size is None and loader.batch_sampler is None:
        raise TargetError(
            "the DataLoader has `batch_size=None`: its data set makes the batches itself",
            code="unbatched_loader",
            hint="give a data set of single samples, so that batches of any size can be made",
        )


def rebuild(dataloader: DataLoader[Any], recommendation: Recommendation | int) -> DataLoader[Any]:
    """The same DataLoader at the recommended batch size, or at a size given as a number.

    Everything else is kept: the data set, the sampler, and so the order of the samples, the collate function,
    the generator, `drop_last`, and what concerns workers and pinned memory. The sampler and the generator are
    the original's own, not copies. A subclass that adds no more than a constructor, such as PyTorch
    Geometric's, comes back as a plain DataLoader with what that constructor has set.

    Raises UsageError for what is no DataLoader or no batch size, and TargetError for a DataLoader that does
    not make its batches itself from single samples: with a `batch_sampler`, with `batch_size=None`, or of a
    class with an iteration of its own.
    """
    batch_size = _wanted_size(recommendation)
    _check_rebuildable(dataloader)
    streamed = isinstance(dataloader.dataset, IterableDataset)
    return DataLoader(
        dataloader.dataset,
        batch_size=batch_size,
        # Of a stream the DataLoader makes a sampler of its own, and takes none.
        sampler=None if streamed else dataloader.sampler,
        drop_last=dataloader.drop_last,
        collate_fn=dataloader.collate_fn,
        generator=dataloader.generator,
        num_workers=dataloader.num_workers,
        prefetch_factor=dataloader.prefetch_factor,
        persistent_workers=dataloader.persistent_workers,
        pin_memory=dataloader.pin_memory,
        pin_memory_device=dataloader.pin_memory_device,
        timeout=dataloader.timeout,
        worker_init_fn=dataloader.worker_init_fn,
        multiprocessing_context=dataloader.multiprocessing_context,
        in_order=dataloader.in_order,
    )


def _wanted_size(recommendation: Any) -> int:
    if isinstance(recommendation, Recommendation):
        return recommendation.batch_size
    if not isinstance(recommendation, int) or isinstance(recommendation, bool) or recommendation < 1:
        raise UsageError(
            f"`{recommendation!r}` is not a batch size",
            code="bad_batch_size",
            hint="give what `autobatch.find` returned, or a whole number of at least 1",
        )
    return recommendation


def _check_rebuildable(dataloader: Any) -> None:
    if not isinstance(dataloader, DataLoader):
        raise UsageError(
            f"the object to rebuild is a {type(dataloader).__name__}, not a DataLoader",
            code="not_a_loader",
            hint="give a torch.utils.data.DataLoader, before anything wraps it",
        )
    check_loader(dataloader)
    if dataloader.batch_size is None:
        raise TargetError(
            "the DataLoader has a `batch_sampler`, which alone decides on the batch size",
            code="batch_sampler",
            facts=(f"it is a {type(dataloader.batch_sampler).__name__}",),
            hint="make the batch sampler anew with the batch size, and the DataLoader from it",
        )
    changes = sorted(_own_names(type(dataloader)))
    if changes:
        raise TargetError(
            f"a {type(dataloader).__name__} can't be made again: it is more than a DataLoader",
            code="own_loader",
            facts=(f"its class has its own {', '.join(f'`{name}`' for name in changes[:4])}",),
            hint="make it by its own constructor, with `batch_size=found.batch_size`",
        )


def _own_names(kind: type) -> set[str]:
    """What the classes between `kind` and DataLoader define, a constructor apart."""
    between = kind.__mro__[: kind.__mro__.index(DataLoader)]
    return {name for one in between for name in vars(one)} - _HARMLESS


def make_loader(
    dataset: Any,
    collate: Callable[[list[Any]], Any],
    settings: LoaderSettings,
    batch_size: int,
    workers: int,
    seed: int,
) -> DataLoader[Any]:
    """A DataLoader of whole batches of samples drawn without end; of a stream, as far as that goes.

    Raises like DataLoader itself.
    """
    streamed = isinstance(dataset, IterableDataset)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=None if streamed else _Draws(len(dataset), seed),
        drop_last=True,
        collate_fn=collate,
        # One of its own, so that nothing is drawn from the common one.
        generator=torch.Generator().manual_seed(seed % 2**63),
        num_workers=workers,
        pin_memory=settings.pin_memory and torch.accelerator.is_available(),
        **(_of_workers(settings) if workers else {}),
    )


def _of_workers(settings: LoaderSettings) -> dict[str, Any]:
    """What a DataLoader takes only where it has workers."""
    return {
        "prefetch_factor": settings.prefetch_factor,
        "persistent_workers": settings.persistent_workers,
        "timeout": settings.timeout_seconds,
        "multiprocessing_context": settings.start_method,
        "worker_init_fn": _Unlimited(settings.worker_init_fn),
    }


class _Draws(Sampler[int]):
    """Indices below `size` without end, each drawn by itself: a shuffled epoch would be a list."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(self._seed)
        while True:
            yield generator.randrange(self._size)


@dataclass(frozen=True)
class _Unlimited:
    """Frees a worker of the limit that training is measured under, then does what the user asks for."""

    then: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        if sys.platform == "linux":
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        if self.then is not None:
            self.then(worker)

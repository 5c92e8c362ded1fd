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
from autobatch.workload.sampling import drops_last

# Names that every class statement defines, and the constructor: they change nothing in how batches are made.
_HARMLESS = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__firstlineno__"}
_HARMLESS |= {"__static_attributes__", "__orig_bases__", "__parameters__"}
_HARMLESS |= {"__annotate_func__", "__annotations_cache__"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """The arguments of a DataLoader beside its data set, its batch size and its collate function."""

    workers: int = 0
    prefetch_factor: int | None = None
    persistent_workers: bool = False
    pin_memory: bool = False
    timeout_seconds: float = 0.0
    start_method: str | None = None
    worker_init_fn: Callable[[int], None] | None = None
    drop_last: bool = False


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
        # A context can't be sent to another process; its name is enough.
        start_method=None if context is None else context.get_start_method(),
        worker_init_fn=data.worker_init_fn,
        drop_last=drops_last(data),
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

    Everything else is kept: the data set, the sampler (and so the order of the samples), the collate
    function, the generator, `drop_last`, and the settings of workers and pinned memory. Sampler and generator
    are those of the original, not copies. A subclass that adds only a constructor, such as PyTorch
    Geometric's, comes back as a plain DataLoader with the settings of that constructor.

    Raises UsageError for other objects, for bad batch sizes, and for a size that `drop_last` leaves no batch
    of. Raises TargetError for a DataLoader that does not batch single samples itself: with a `batch_sampler`,
    with `batch_size=None`, or of a class that iterates in another way.
    """
    batch_size = _wanted_size(recommendation)
    _check_rebuildable(dataloader)
    streamed = isinstance(dataloader.dataset, IterableDataset)
    rebuilt = DataLoader(
        dataloader.dataset,
        batch_size=batch_size,
        # For a stream a DataLoader takes no sampler: it makes one.
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
    _check_batches(rebuilt, batch_size)
    return rebuilt


def _wanted_size(recommendation: Any) -> int:
    if isinstance(recommendation, Recommendation):
        return recommendation.batch_size
    if not isinstance(recommendation, int) or isinstance(recommendation, bool) or recommendation < 1:
        raise UsageError(
            f"`{recommendation!r}` is not a batch size",
            code="bad_batch_size",
            hint="give the result of `autobatch.find`, or a whole number of at least 1",
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
    changes = sorted(_changed_names(type(dataloader)))
    if changes:
        raise TargetError(
            f"a {type(dataloader).__name__} can't be made again: it is more than a DataLoader",
            code="own_loader",
            facts=(f"its class has its own {', '.join(f'`{name}`' for name in changes[:4])}",),
            hint="make it by its constructor, with `batch_size=found.batch_size`",
        )


def _check_batches(rebuilt: DataLoader[Any], batch_size: int) -> None:
    """Raises UsageError for a DataLoader whose epoch has no batch."""
    sampler: Any = rebuilt.sampler
    if not rebuilt.drop_last or not hasattr(sampler, "__len__") or batch_size <= len(sampler):
        return
    raise UsageError(
        f"a DataLoader at batch size {batch_size:,} would give no batch",
        code="no_batches",
        facts=(
            f"its {type(sampler).__name__} gives {len(sampler):,} samples an epoch",
            "it has `drop_last=True`",
        ),
        hint=f"give at most {len(sampler):,}, or a DataLoader with `drop_last=False`",
    )


def _changed_names(kind: type) -> set[str]:
    """Names that the classes between `kind` and DataLoader define, constructors excepted."""
    between = kind.__mro__[: kind.__mro__.index(DataLoader)]
    return {name for cls in between for name in vars(cls)} - _HARMLESS


def make_loader(
    dataset: Any,
    collate: Callable[[list[Any]], Any],
    settings: LoaderSettings,
    batch_size: int,
    workers: int,
    seed: int,
) -> DataLoader[Any]:
    """A DataLoader of whole batches of samples drawn without end, or of a stream until it ends.

    Raises the errors of DataLoader.
    """
    streamed = isinstance(dataset, IterableDataset)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=None if streamed else _Draws(len(dataset), seed),
        drop_last=True,
        collate_fn=collate,
        # A separate generator, so that nothing is drawn from torch's default one.
        generator=torch.Generator().manual_seed(seed % 2**63),
        num_workers=workers,
        pin_memory=settings.pin_memory and torch.accelerator.is_available(),
        **(_worker_settings(settings) if workers else {}),
    )


def _worker_settings(settings: LoaderSettings) -> dict[str, Any]:
    """Arguments that a DataLoader takes only with workers."""
    return {
        "prefetch_factor": settings.prefetch_factor,
        "persistent_workers": settings.persistent_workers,
        "timeout": settings.timeout_seconds,
        "multiprocessing_context": settings.start_method,
        "worker_init_fn": _Unlimited(settings.worker_init_fn),
    }


class _Draws(Sampler[int]):
    """Indices below `size` without end, each drawn alone. A shuffled epoch would be a list in memory."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(self._seed)
        while True:
            yield generator.randrange(self._size)


@dataclass(frozen=True)
class _Unlimited:
    """Lifts the memory limit of the measurement in a DataLoader's worker, then calls the user's function."""

    then: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        if sys.platform == "linux":
            import resource

            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        if self.then is not None:
            self.then(worker)

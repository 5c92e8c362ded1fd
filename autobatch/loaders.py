"""The user's DataLoader, taken apart and made again at another batch size and with other workers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler


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

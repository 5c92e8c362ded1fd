"""Hooks in torch's DataLoader: samples counted, places noted, sizes changed while it iterates."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from torch.utils.data import BatchSampler, DataLoader, dataloader

from .user_code import user_frame

Origin = tuple[tuple[str, int], ...]


class Listener(Protocol):
    """Hears of batches. `cuts_evaluation`: a loop that `evaluates` ends after its first batch.

    `repeats`: a loop over training batches begins again where it would end, so that a short training lasts.
    """

    @property
    def cuts_evaluation(self) -> bool: ...
    def evaluates(self, loader: Any) -> bool: ...
    def repeats(self, loader: Any) -> bool: ...
    def fetched(self, loader: Any, samples: int | None, seconds: float) -> None: ...
    def cut_epoch(self, loader: Any) -> bool: ...
    def interrupted(self) -> None: ...


def first_dimension(batch: Any) -> int | None:
    """Samples of a batch by its first tensor; by its graphs where it is a batch of graphs."""
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.dim() else None
    graphs = getattr(batch, "num_graphs", None)
    if isinstance(graphs, int):
        return graphs
    parts = list(batch.values()) if hasattr(batch, "values") else batch
    if isinstance(parts, (list, tuple)):
        return next((size for size in map(first_dimension, parts) if size is not None), None)
    return None


def samplers_of(loader: Any) -> list[Any]:
    """Every sampler of a loader that holds its batch size, from the outer one inwards."""
    sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    samplers: list[Any] = []
    # A framework's sampler that shards batches over ranks wraps the one that makes them.
    while sampler is not None and len(samplers) < 8:
        if isinstance(getattr(sampler, "batch_size", None), int):
            samplers.append(sampler)
        sampler = getattr(sampler, "batch_sampler", None)
    return samplers


def set_size(loader: Any, batch_size: int) -> bool:
    """Give the samplers of a loader another size, from their next batch on; False where none takes it.

    Batches of the former size that workers have prepared by now never reach the training.
    """
    samplers = samplers_of(loader)
    changes = any(sampler.batch_size != batch_size for sampler in samplers)
    try:
        for sampler in samplers:
            sampler.batch_size = batch_size
    except (AttributeError, TypeError, ValueError):
        return False
    loader.__dict__["_autobatch_changes"] = _changes_of(loader) + changes
    return bool(samplers)


def _changes_of(loader: Any) -> int:
    """How many times the size of a loader has changed."""
    return int(loader.__dict__.get("_autobatch_changes", 0))


def install(listener: Listener, apply: dict[str, Any] | None) -> None:
    """Hook DataLoader, its iterators and BatchSampler.

    `apply`: the `file` and `line` of a loader, and the size it gets (`batch_size`) in place of `current`.
    """
    BatchSampler.__iter__ = _batches  # type: ignore[method-assign]
    _install_places(apply)
    _install_iteration(listener)


def install_size(apply: dict[str, Any]) -> None:
    """Hook DataLoader alone, to give one of them another size."""
    _install_places(apply)


def _batches(self: Any) -> Iterator[list[int]]:
    """The batches of torch's own method, with a size that may change between two of them."""
    indices = iter(self.sampler)
    while True:
        batch = []
        for index in indices:
            batch.append(index)
            if len(batch) >= self.batch_size:
                break
        if not batch or (self.drop_last and len(batch) < self.batch_size):
            return
        yield batch


def _install_places(apply: dict[str, Any] | None) -> None:
    make = DataLoader.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        origin = _origin(sys._getframe(1))
        here = apply is not None and origin[0] == (apply["file"], apply["line"])
        if here and apply is not None:
            size = args[1] if len(args) > 1 else kwargs.get("batch_size", 1)
            if size == apply["current"] and kwargs.get("batch_sampler") is None:
                if len(args) > 1:
                    args = (args[0], apply["batch_size"], *args[2:])
                else:
                    kwargs["batch_size"] = apply["batch_size"]
        make(self, *args, **kwargs)
        self.__dict__["_autobatch_origin"] = _first_origin(self, origin)
        if here and apply is not None and kwargs.get("batch_sampler") is not None:
            set_size(self, apply["batch_size"])

    DataLoader.__init__ = __init__  # type: ignore[method-assign]


def _origin(frame: Any) -> Origin:
    """The user's line that makes a loader, then all calls that lead to it, as functions and instructions.

    The latter tell a training loader from others that the same function, or the same line, makes.
    """
    user = user_frame(frame)
    place = (os.path.realpath(user.f_code.co_filename), user.f_lineno) if user else ("", 0)
    calls = []
    while frame is not None:
        calls.append((f"{frame.f_code.co_filename}:{frame.f_code.co_firstlineno}", frame.f_lasti))
        frame = frame.f_back
    return (place, *calls)


def _first_origin(loader: Any, origin: Origin) -> Origin:
    """Where a loader's batches were first defined: frameworks make another loader of the user's sampler."""
    for sampler in reversed(samplers_of(loader)):
        try:
            return cast("Origin", sampler.__dict__.setdefault("_autobatch_origin", origin))
        except AttributeError:
            continue
    return origin


def origin_of(loader: Any) -> Origin:
    """Where a loader was made; no place for none."""
    return cast("Origin", getattr(loader, "_autobatch_origin", (("", 0),)))


def _install_iteration(listener: Listener) -> None:
    base = dataloader._BaseDataLoaderIter
    make, following = base.__init__, base.__next__
    next_index: Any = base._next_index
    reset: Any = base._reset

    def __init__(self: Any, loader: Any) -> None:  # noqa: N807
        self._autobatch_loader = loader
        # Of each batch that is on its way: its samples, and the changes of size before it.
        self._autobatch_drawn = deque()
        self._autobatch_batches = 0
        make(self, loader)

    def _next_index(self: Any) -> Any:
        index = next_index(self)
        samples = len(index) if isinstance(index, (list, tuple)) else None
        self._autobatch_drawn.append((samples, _changes_of(self._autobatch_loader)))
        return index

    def _reset(self: Any, *args: Any, **kwargs: Any) -> None:
        # Workers that persist begin another epoch: batches of a broken one are gone.
        self._autobatch_drawn.clear()
        reset(self, *args, **kwargs)

    def next_batch(iterator: Any) -> tuple[Any, int | None]:
        """The next batch of the loader's current size, and its samples where its sampler knows them."""
        while True:
            batch = following(iterator)
            if not iterator._autobatch_drawn:
                return batch, None
            samples, changes = iterator._autobatch_drawn.popleft()
            if changes == _changes_of(iterator._autobatch_loader):
                return batch, samples

    def __next__(self: Any) -> Any:  # noqa: N807
        loader = self._autobatch_loader
        evaluates = listener.evaluates(loader)
        if evaluates and self._autobatch_batches and listener.cuts_evaluation:
            raise StopIteration
        if not evaluates and listener.cut_epoch(loader):
            listener.interrupted()
            raise StopIteration
        begin = time.perf_counter()
        current = getattr(self, "_autobatch_again", self)
        try:
            batch, size = next_batch(current)
        except StopIteration:
            listener.interrupted()
            if evaluates or not listener.repeats(loader):
                raise
            current = self._autobatch_again = DataLoader.__iter__(loader)
            batch, size = next_batch(current)
        self._autobatch_batches += 1
        if evaluates:
            listener.interrupted()
        else:
            samples = first_dimension(batch) if size is None else size
            listener.fetched(loader, samples, time.perf_counter() - begin)
        return batch

    base.__init__ = __init__  # type: ignore[method-assign]
    base.__next__ = __next__  # type: ignore[method-assign]
    base._next_index = _next_index  # type: ignore[method-assign]
    base._reset = _reset  # type: ignore[method-assign]

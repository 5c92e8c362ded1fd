"""Record the births and deaths of storages while operators run, with the kind of each storage."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autobatch.devices.tracing_internals import (
    DataDependentOutputException,
    TorchDispatchMode,
    in_backward,
    storage_key,
    tree_leaves,
)
from autobatch.memory.storage_log import Birth, Death, Event, Kind, order_deaths

_ACCUMULATES = torch.ops.aten.add.Tensor
_READS_SCALAR = torch.ops.aten._local_scalar_dense.default
# Namespaces of torch's operators, which allocate only their results and workspaces.
_TORCH_NAMESPACES = ("aten", "prim", "prims", "profiler")

RunOperator = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Trace:
    """The log of two whole steps.

    `guessed`: how often the step read a number from a fake tensor, and got 0. `foreign`: operators that are
    not torch's, whose internal allocations the log doesn't see.
    """

    events: tuple[Event, ...]
    guessed: int = 0
    foreign: tuple[str, ...] = ()


@dataclass(slots=True)
class _Living:
    """A storage that is alive: its number in the log, and its size when it was noted."""

    number: int
    size_bytes: int
    reference: weakref.ref[Any]


class StorageRecorder(TorchDispatchMode):
    """Note each storage that an operator creates, and each that dies. `run_operator` runs the operators."""

    def __init__(self, run_operator: RunOperator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run_operator = run_operator
        self._events: list[Event] = []
        self._living: dict[int, _Living] = {}
        self._count = 0
        self._open = True
        self._guessed = 0
        self._foreign: set[str] = set()
        # The kind of each storage; without an entry it is an activation.
        self._kinds: dict[int, Kind] = {}
        self._updating = False
        # The storage that a gradient was accumulated from, until it is clear whether it lives on.
        self._replaced: weakref.ref[Any] | None = None

    def close(self) -> Trace:
        """End the log and return it; later deaths don't belong to it."""
        self._open = False
        events = order_deaths(map(self._with_kind, self._events))
        return Trace(events, self._guessed, tuple(sorted(self._foreign)))

    def mark(self, tensors: Iterable[Any], kind: Kind) -> None:
        """Set the kind of the storages of these tensors."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
                living = self._living.get(storage_key(tensor.untyped_storage()))
                if living is not None:
                    self._kinds[living.number] = kind

    @contextlib.contextmanager
    def watch(self, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
        """Mark gradients, optimizer state and workspace at each step of an optimizer."""
        with contextlib.ExitStack() as hooks:
            for optimizer in optimizers:
                hooks.callback(optimizer.register_step_pre_hook(self._begin_update).remove)
                hooks.callback(optimizer.register_step_post_hook(self._end_update).remove)
            yield

    def note(self, value: Any) -> None:
        """Note the storage of a tensor, if it is new or was resized."""
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            return
        storage = value.untyped_storage()
        key = storage_key(storage)
        living = self._living.get(key)
        if living is not None and living.size_bytes == storage.nbytes():
            return
        if living is not None:
            self._note_death(key, living.number)
        self._note_birth(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._settle_replaced()
        if func is _READS_SCALAR:
            return self._read_scalar(func, args)
        if func.namespace not in _TORCH_NAMESPACES:
            self._foreign.add(func.name().partition(".")[0])
        result = self._run_operator(func, args, kwargs)
        if func is _ACCUMULATES and not kwargs and in_backward() and self._replaces_first(args, result):
            return result
        for leaf in tree_leaves(result):
            self.note(leaf)
        return result

    def _begin_update(self, *_: Any) -> None:
        """From here to `_end_update` new storages are optimizer state or workspace."""
        self._updating = True

    def _end_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._updating = False
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.mark((parameter.grad for parameter in parameters), Kind.GRADIENT)
        self.mark(tree_leaves(dict(optimizer.state)), Kind.OPTIMIZER)

    def _with_kind(self, event: Event) -> Event:
        if isinstance(event, Birth) and event.storage in self._kinds:
            return Birth(event.storage, event.size_bytes, self._kinds[event.storage])
        return event

    def _read_scalar(self, func: Any, args: tuple[Any, ...]) -> Any:
        """The number in a tensor; 0 where it is fake, so that `loss.item()` and `if isnan` pass."""
        try:
            return func(*args)
        except DataDependentOutputException:
            self._guessed += 1
            dtype = args[0].dtype
            return False if dtype == torch.bool else 0.0 if dtype.is_floating_point else 0

    def _note_birth(self, storage: torch.UntypedStorage) -> None:
        self._events.append(Birth(self._count, storage.nbytes()))
        self._follow(storage, self._count)
        if self._updating:
            self._kinds[self._count] = Kind.WORKSPACE
        self._count += 1

    def _follow(self, storage: torch.UntypedStorage, number: int) -> None:
        key = storage_key(storage)
        reference = weakref.ref(storage, lambda _: self._note_death(key, number))
        self._living[key] = _Living(number, storage.nbytes(), reference)

    def _note_death(self, key: int, number: int) -> None:
        if self._open and key in self._living and self._living[key].number == number:
            del self._living[key]
            self._events.append(Death(number))

    def _replaces_first(self, args: tuple[Any, ...], result: torch.Tensor) -> bool:
        """True where a sum of gradients takes the place of its first term.

        Autograd adds in place; only under a dispatch mode does it create a new tensor.
        """
        first, second = args
        if not isinstance(second, torch.Tensor) or first.shape != second.shape:
            return False
        old, new = first.untyped_storage(), result.untyped_storage()
        old_key, new_key = storage_key(old), storage_key(new)
        if old_key not in self._living or new_key in self._living or old.nbytes() != new.nbytes():
            return False
        self._follow(new, self._living.pop(old_key).number)
        self._replaced = weakref.ref(old)
        return True

    def _settle_replaced(self) -> None:
        """Note a first term that lives on: it was no intermediate gradient, and its sum a new tensor."""
        old = self._replaced() if self._replaced is not None else None
        self._replaced = None
        if old is not None and storage_key(old) not in self._living:
            self._note_birth(old)


def run_directly(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator by itself, on real tensors."""
    return func(*args, **kwargs)

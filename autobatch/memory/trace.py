"""One training step under a log of its storages: on small real batches, or on fake tensors.

On fake tensors (FakeTensorMode) every operator runs for its shapes alone: no data, no memory, any device.
They are CPU tensors whatever the device: a fake tensor of a device that this torch was not built for can't
be trained on. On a CPU real tensors give the same log, sooner, and where a step's path depends on its data
too.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from autobatch.memory.fake_results import FakeResults
from autobatch.memory.storage_log import Birth, Death, Event, Kind, ordered
from autobatch.workload.keras.optimizer import FollowedOptimizer

# The second step is the first one that sees the optimizer's state.
_STEPS = 2
_ACCUMULATES = torch.ops.aten.add.Tensor
_READS_SCALAR = torch.ops.aten._local_scalar_dense.default
# Operators of torch itself, whose results are all that they allocate, but for workspaces.
_OWN = ("aten", "prim", "prims", "profiler")


@dataclass(frozen=True, slots=True)
class Trace:
    """The log of two whole steps.

    `guessed`: how often a number was read from a fake tensor, and taken for 0. `foreign`: the operators
    that are not torch's own, of which only the results are seen.
    """

    events: tuple[Event, ...]
    guessed: int = 0
    foreign: tuple[str, ...] = ()


def trace_step(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Any,
    step: Callable[[Any], object],
    *,
    fake: bool,
    channels_last: bool = False,
) -> Trace:
    """The log of two whole steps on `batch`, parameters and batch included.

    `channels_last`: images and the weights that are laid out like them have their channels last in memory.
    Afterwards model and optimizers are good for nothing but another trace: they have trained, or hold fake
    tensors. Raises whatever the step raises, on fake tensors also where its path depends on the data.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
    if channels_last:
        _lay_out(model)
        batch = tree_map(_channels_last, batch)
    if mode is not None:
        _fill_with_fakes(model, optimizers, mode)
        batch = tree_map(lambda leaf: _fake(leaf, mode) if isinstance(leaf, torch.Tensor) else leaf, batch)
    log = _StorageLog(mode)
    for tensor in (*model.parameters(), *model.buffers(), *tree_leaves(batch)):
        log.note(tensor)
    log.mark((*model.parameters(), *model.buffers()), Kind.PARAMETER)
    # What a compiled step allocates happens inside of its kernels' code, where no log sees it.
    with torch.compiler.set_stance("force_eager"), mode or contextlib.nullcontext(), log:
        with _watched(optimizers, log):
            for _ in range(_STEPS):
                step(batch)
        # Before the modes end: what they let go of is not the step's.
        return log.closed()


@contextlib.contextmanager
def _watched(optimizers: Sequence[torch.optim.Optimizer], log: _StorageLog) -> Iterator[None]:
    """Tells the log, at each step of an optimizer, what are gradients and what is its state."""
    with contextlib.ExitStack() as hooks:
        for one in optimizers:
            hooks.callback(one.register_step_pre_hook(lambda *_: log.begin_update()).remove)
            hooks.callback(one.register_step_post_hook(lambda made, *_: log.end_update(made)).remove)
        yield


def _lay_out(model: nn.Module) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
            tensor.data = _channels_last(tensor.data)


def _channels_last(value: Any) -> Any:
    """A tensor of four dimensions with its second one last in memory; anything else as it is."""
    if isinstance(value, torch.Tensor) and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _fill_with_fakes(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], fake: FakeTensorMode
) -> None:
    """Puts a fake in the place of every parameter and buffer; what is shared stays shared."""
    # With its fake, each tensor is kept itself: the number of one that is gone may be another's.
    fakes: dict[int, tuple[Any, Any]] = {}

    def fake_of(tensor: Any) -> Any:
        return fakes.setdefault(id(tensor), (tensor, _fake_like(tensor, fake)))[1]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake_of(one) for name, one in tensors.items() if one is not None})
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [fake_of(one) if id(one) in fakes else one for one in group["params"]]
        if isinstance(optimizer, FollowedOptimizer):
            optimizer.replace_values(fake_of)


def _fake_like(tensor: torch.Tensor, fake: FakeTensorMode) -> torch.Tensor:
    made = _fake(tensor.detach(), fake)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _fake(tensor: torch.Tensor, fake: FakeTensorMode) -> torch.Tensor:
    """A fake CPU tensor of the same shape, strides and type."""
    with fake:
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return made.requires_grad_(tensor.requires_grad)


class _StorageLog(TorchDispatchMode):
    """Notes each storage that an operator makes, and each that goes."""

    def __init__(self, fake: FakeTensorMode | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = FakeResults(fake).run if fake is not None else _run
        self._events: list[Event] = []
        self._alive: dict[int, tuple[int, weakref.ref[Any], int]] = {}
        self._count = 0
        self._open = True
        self._guessed = 0
        self._foreign: set[str] = set()
        # What each storage is for; what is missing is an activation.
        self._kinds: dict[int, Kind] = {}
        self._updating = False
        # The storage that a gradient was accumulated from, until it is known whether it lives on.
        self._replaced: weakref.ref[Any] | None = None

    def closed(self) -> Trace:
        """The log; nothing that dies from here on belongs to it."""
        self._open = False
        return Trace(ordered(map(self._with_kind, self._events)), self._guessed, tuple(sorted(self._foreign)))

    def mark(self, tensors: Iterable[Any], kind: Kind) -> None:
        """Says what the storages of these tensors are for."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
                known = self._alive.get(tensor.untyped_storage()._cdata)
                if known is not None:
                    self._kinds[known[0]] = kind

    def begin_update(self) -> None:
        """From here to `end_update` an optimizer makes its state, and what it drops again."""
        self._updating = True

    def end_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Marks the optimizer's state and the gradients that it has used."""
        self._updating = False
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self.mark((one.grad for one in parameters), Kind.GRADIENT)
        self.mark(tree_leaves(dict(optimizer.state)), Kind.OPTIMIZER)

    def note(self, value: Any) -> None:
        """Notes the storage of a tensor, if it is new or was resized."""
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            return
        storage = value.untyped_storage()
        known = self._alive.get(storage._cdata)
        if known is not None and known[2] == storage.nbytes():
            return
        if known is not None:
            self._dies(storage._cdata, known[0])
        self._born(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._settle_replaced()
        if func is _READS_SCALAR:
            return self._read_scalar(func, args)
        if func.namespace not in _OWN:
            self._foreign.add(f"{func.namespace}::{func._opname}")
        result = self._run(func, args, kwargs)
        if func is _ACCUMULATES and not kwargs and _in_backward() and self._takes_over(args, result):
            return result
        for leaf in tree_leaves(result):
            self.note(leaf)
        return result

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

    def _born(self, storage: Any) -> None:
        self._events.append(Birth(self._count, storage.nbytes()))
        self._keep(storage, self._count)
        if self._updating:
            self._kinds[self._count] = Kind.WORKSPACE
        self._count += 1

    def _keep(self, storage: Any, number: int) -> None:
        key = storage._cdata
        reference = weakref.ref(storage, lambda _: self._dies(key, number))
        self._alive[key] = (number, reference, storage.nbytes())

    def _dies(self, key: int, number: int) -> None:
        if self._open and key in self._alive and self._alive[key][0] == number:
            del self._alive[key]
            self._events.append(Death(number))

    def _takes_over(self, args: tuple[Any, ...], result: torch.Tensor) -> bool:
        """True where a sum of gradients takes its first term's place.

        The engine adds in place; only under a mode does it make a new tensor.
        """
        first, second = args
        if not isinstance(second, torch.Tensor) or first.shape != second.shape:
            return False
        old, new = first.untyped_storage(), result.untyped_storage()
        if old._cdata not in self._alive or new._cdata in self._alive or old.nbytes() != new.nbytes():
            return False
        number, _, _ = self._alive.pop(old._cdata)
        self._keep(new, number)
        self._replaced = weakref.ref(old)
        return True

    def _settle_replaced(self) -> None:
        """A first term that lives on was no gradient on its way: its sum was a new tensor after all."""
        old = self._replaced() if self._replaced is not None else None
        self._replaced = None
        if old is not None and old._cdata not in self._alive:
            self._born(old)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled()

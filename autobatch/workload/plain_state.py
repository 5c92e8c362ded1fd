"""State of a training outside of its weights: attributes and buffers of modules, schedules, settings.

A hidden state that is carried from batch to batch, the pointer of a queue and a schedule that ends are of
this kind. They lie in the namespaces of objects, as numbers, tensors, and containers of both.
"""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from autobatch.workload.trainer import Trainer

# torch's own attributes: weights, buffers and submodules, which have namespaces of their own, and hooks.
_OF_TORCH = frozenset(vars(nn.Module())) - {"training"}
_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
_SEQUENCES = (list, deque)
# Entries of a container, and bytes of a tensor or an array. Larger ones hold data, such as a vocabulary.
_MOST_ENTRIES = 1000
_MOST_BYTES = 64 << 20
_DEEPEST = 4
_ABSENT = object()

# Puts a value back in place, and returns it.
Restore = Callable[[], Any]


class PlainState:
    """The namespaces of a training as they are now, in memory."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._modules = list(trainer.model.modules())
        self._schedulers = _schedulers()
        self._kept = [
            {name: (value, _kept(value)) for name, value in namespace.items() if name not in _OF_TORCH}
            for namespace in self._namespaces()
        ]
        self._pointers = {name: buffer._version for name, buffer in self._integer_buffers()}

    def carried(self) -> tuple[str, ...]:
        """The state of modules that may be of the last batch, as `Class.name`.

        Attributes that have got tensors since, and integer buffers that have changed. torch's own layers
        depend on no batch size.
        """
        attributes = [f"{type(module).__name__}.{name}" for module, name, _ in self._new_tensors()]
        moved = [
            name for name, buffer in self._integer_buffers() if buffer._version != self._pointers.get(name)
        ]
        return (*attributes, *moved)

    def restore(self) -> None:
        """Puts everything back. Tensors and containers stay the same objects."""
        for namespace, kept in zip(self._namespaces(), self._kept, strict=True):
            for name in [name for name in namespace if name not in kept and name not in _OF_TORCH]:
                del namespace[name]
            for name, (value, restore) in kept.items():
                restored = value if restore is None else restore()
                if namespace.get(name, _ABSENT) is not restored:
                    namespace[name] = restored

    def drop_tensors(self) -> None:
        """Puts the attributes back that have got tensors, such as a hidden state, and nothing else."""
        for module, name, value in list(self._new_tensors()):
            if value is _ABSENT:
                del vars(module)[name]
            else:
                vars(module)[name] = value

    def _new_tensors(self) -> Iterator[tuple[nn.Module, str, Any]]:
        """Each attribute that has got tensors since, with its first value."""
        for module, kept in zip(self._modules, self._kept, strict=False):
            for name, value in vars(module).items():
                first = kept.get(name, (_ABSENT,))[0]
                if name not in _OF_TORCH and _holds_tensor(value) and value is not first:
                    yield module, name, first

    def _integer_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        for module in self._modules:
            if not type(module).__module__.startswith("torch.nn."):
                for name, buffer in module._buffers.items():
                    if buffer is not None and not buffer.is_floating_point():
                        yield f"{type(module).__name__}.{name}", buffer

    def _namespaces(self) -> Iterator[dict[str, Any]]:
        """The namespaces that hold state. The groups of an optimizer may be new dicts each time."""
        for holder in (*self._modules, *self._schedulers):
            yield vars(holder)
        for module in self._modules:
            yield module._buffers
        for optimizer in self._trainer.optimizers:
            yield from optimizer.param_groups


def _schedulers() -> list[LRScheduler]:
    """All schedulers of this process: the user's step may step one, and no optimizer knows its schedulers."""
    # The type, because asking a proxy for its class may run code.
    return [each for each in gc.get_objects() if issubclass(type(each), LRScheduler)]


def _kept(value: Any, depth: int = 0) -> Restore | None:
    """The function that puts a value back; None where the object itself is enough, or is not copied."""
    if isinstance(value, torch.Tensor):
        return _kept_tensor(value)
    if isinstance(value, numpy.ndarray):
        return _kept_array(value)
    is_small = isinstance(value, (*_MAPPINGS, *_SEQUENCES, set)) and len(value) <= _MOST_ENTRIES
    if not is_small or depth == _DEEPEST:
        return None
    if type(value) in _MAPPINGS:
        return _kept_mapping(value, depth)
    if type(value) in _SEQUENCES:
        return _kept_sequence(value, depth)
    return _kept_set(value) if type(value) is set else None


def _kept_tensor(tensor: torch.Tensor) -> Restore | None:
    is_dense = tensor.layout is torch.strided and 0 not in tensor.stride()
    if type(tensor) is not torch.Tensor or tensor.is_inference() or not is_dense:
        return None
    if tensor.nbytes > _MOST_BYTES:
        return None
    copy, version = tensor.detach().cpu().clone(), tensor._version

    def restore() -> torch.Tensor:
        if tensor._version != version:
            with torch.no_grad():
                tensor.copy_(copy)
        return tensor

    return restore


def _kept_array(array: Any) -> Restore | None:
    if array.nbytes > _MOST_BYTES or array.dtype.hasobject or not array.flags.writeable:
        return None
    copy = array.copy()

    def restore() -> Any:
        array[...] = copy
        return array

    return restore


def _kept_mapping(mapping: dict[Any, Any], depth: int) -> Restore:
    entries = [(key, value, _kept(value, depth + 1)) for key, value in mapping.items()]

    def restore() -> dict[Any, Any]:
        mapping.clear()
        mapping.update((key, value if again is None else again()) for key, value, again in entries)
        return mapping

    return restore


def _kept_sequence(sequence: Any, depth: int) -> Restore:
    entries = [(value, _kept(value, depth + 1)) for value in sequence]

    def restore() -> Any:
        sequence.clear()
        sequence.extend(value if again is None else again() for value, again in entries)
        return sequence

    return restore


def _kept_set(values: set[Any]) -> Restore:
    entries = frozenset(values)

    def restore() -> set[Any]:
        values.clear()
        values.update(entries)
        return values

    return restore


def _holds_tensor(value: Any, depth: int = 0) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim > 0
    if (
        depth == _DEEPEST
        or not isinstance(value, (*_MAPPINGS, *_SEQUENCES, tuple))
        or len(value) > _MOST_ENTRIES
    ):
        return False
    values = value.values() if isinstance(value, dict) else value
    return any(_holds_tensor(each, depth + 1) for each in values)

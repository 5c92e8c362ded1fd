"""The private APIs of torch that tracing a training step needs, in one place.

Run with torch 2.6 and 2.13; the first releases are from torch's source history.

| API | since torch |
|---|---|
| `torch.utils._pytree` (with `tree_leaves`) | 2.2 |
| `FakeTensor`, `FakeTensorMode`, `DataDependentOutputException` | 2.0 |
| `TorchDispatchMode`, `torch._C._DisableTorchDispatch` | 2.0 |
| `UntypedStorage._cdata`, `OpOverload._schema` | 2.0 |
| `torch._C._ExcludeDispatchKeyGuard`, `DispatchKeySet` | 2.0 |
| `torch._C._dispatch_get_registrations_for_dispatch_key` | 2.0 |
| `torch._C._current_graph_task_id` | 2.1 |
| `_foreach_supported_types`, `_get_foreach_kernels_supported_devices` | 2.1 |

All are required except those of `in_backward` and `use_foreach`, which name their fallbacks. Without a
required name this module raises ImportError or AttributeError, and no step is traced: the search then climbs
without a forecast, with more trials, and the reply says why (`worker/memory_trace`).
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only, tree_unflatten

__all__ = [
    "DataDependentOutputException",
    "FakeTensor",
    "FakeTensorMode",
    "TorchDispatchMode",
    "cpu_autocast_operators",
    "has_out_argument",
    "in_backward",
    "storage_key",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_unflatten",
    "use_foreach",
    "without_cpu_autocast",
    "without_dispatch_modes",
]

_AUTOCAST_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)


def storage_key(storage: torch.UntypedStorage) -> int:
    """The address of a storage; after the storage has died, another may have the same."""
    return int(storage._cdata)


def without_dispatch_modes() -> AbstractContextManager[Any]:
    """Run operators past all dispatch modes, on the `meta` tensors inside of fake tensors."""
    guard: AbstractContextManager[Any] = torch._C._DisableTorchDispatch()
    return guard


def without_cpu_autocast() -> AbstractContextManager[Any]:
    """Run operators past autocast's rules for the CPU."""
    guard: AbstractContextManager[Any] = torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_CPU)
    return guard


def cpu_autocast_operators() -> set[str]:
    """The operators for which autocast on a CPU has a rule, as `aten::name.overload`."""
    return set(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU"))


def has_out_argument(operator: Any) -> bool:
    """True where an operator writes its result into an argument."""
    return any(argument.is_out for argument in operator._schema.arguments)


def in_backward() -> bool:
    """True while autograd runs a backward pass that builds no graph.

    False where torch has no `_current_graph_task_id`: a sum of gradients then counts as a new tensor.
    """
    task_id = getattr(torch._C, "_current_graph_task_id", None)
    return task_id is not None and task_id() != -1 and not torch.is_grad_enabled()


def use_foreach() -> None:
    """Let optimizers update all fake or CPU parameters of this process at once, as they do on CUDA.

    Without `_foreach_supported_types` it does nothing: the trace then has the smaller workspace of optimizers
    that update parameter by parameter.
    """
    optimizer: Any = importlib.import_module("torch.optim.optimizer")
    if hasattr(optimizer, "_foreach_supported_types"):
        optimizer._foreach_supported_types.append(FakeTensor)
        optimizer._get_foreach_kernels_supported_devices = lambda: ["cuda", "cpu"]

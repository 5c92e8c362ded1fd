"""The private APIs of torch that tracing a training step needs, in one place.

Checked with torch 2.13. All names below also exist in torch 2.6, except where the table says otherwise.

| API | since | without it |
|---|---|---|
| `torch.utils._pytree` | 1.8, `tree_leaves` 2.2 | required: this module can't be imported |
| `FakeTensor`, `FakeTensorMode`, `DataDependentOutputException` | 2.0 | required |
| `TorchDispatchMode` | 1.13 | required |
| `_DisableTorchDispatch` | 1.11 | required |
| `UntypedStorage._cdata` | 2.0 | required |
| `OpOverload._schema` | 1.11 | required |
| `_ExcludeDispatchKeyGuard`, `DispatchKeySet` | 2.0 | required |
| `_dispatch_get_registrations_for_dispatch_key` | 2.0 | required |
| `_current_graph_task_id` | 2.1 | `in_backward` is False: a sum of gradients counts as a new tensor |
| `_foreach_supported_types`, `_get_foreach_kernels_supported_devices` | 2.1 | `use_foreach` does nothing: \
optimizers are traced parameter by parameter, and their workspace counts too low |

Where a required name is missing, no step can be traced: there is no plan and no memory forecast.
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
    """True while autograd runs a backward pass that builds no graph."""
    task_id = getattr(torch._C, "_current_graph_task_id", None)
    return task_id is not None and task_id() != -1 and not torch.is_grad_enabled()


def use_foreach() -> None:
    """Let optimizers update all fake or CPU parameters of this process at once, as they do on CUDA."""
    optimizer: Any = importlib.import_module("torch.optim.optimizer")
    if hasattr(optimizer, "_foreach_supported_types"):
        optimizer._foreach_supported_types.append(FakeTensor)
        optimizer._get_foreach_kernels_supported_devices = lambda: ["cuda", "cpu"]

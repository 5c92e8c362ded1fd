"""Every private name of torch that autobatch uses, with the torch versions that have it and the fallback.

Nothing here imports torch when it is imported itself: the parent process asks about compiled models, and has
torch only where the user's own program imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    # (module, name, tensor): a place for a buffer, empty where the tensor is None.
    BufferSlot = tuple[nn.Module, str, torch.Tensor | None]

# The limit's name from torch 2.7 on, and before.
_LIMITS = ("recompile_limit", "cache_size_limit")
# A compiler backend that wraps another keeps it by this name, in newer and in older torch.
_WRAPPED_BACKEND = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable")


def tree_map(function: Callable[[Any], Any], tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """The same nested tuples, lists, dicts and namedtuples with `function` applied to every leaf.

    `is_leaf` is True for a node that is a leaf, whatever it holds. `torch.utils._pytree`, torch >= 2.2.
    """
    from torch.utils._pytree import tree_map as mapped

    return mapped(function, tree, is_leaf=is_leaf)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of nested tuples, lists, dicts and namedtuples. `torch.utils._pytree`, torch >= 2.2."""
    from torch.utils._pytree import tree_leaves as leaves

    return leaves(tree)


def buffer_slots(model: nn.Module) -> list[BufferSlot]:
    """Every buffer that the modules have a name for, those that are still None included.

    `nn.Module._buffers`, every torch. The public `named_buffers` leaves out those that are None.
    """
    return [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]


def fill_buffer(module: nn.Module, name: str, buffer: torch.Tensor | None) -> None:
    """Puts a tensor, or None, into a buffer slot. `nn.Module._buffers`, every torch."""
    module._buffers[name] = buffer


def is_loss_module(value: Any) -> bool:
    """True for torch's own loss modules, such as CrossEntropyLoss. `nn.modules.loss._Loss`, every torch."""
    from torch.nn.modules.loss import _Loss

    return isinstance(value, _Loss)


def normalizes_over_batch(module: nn.Module) -> bool:
    """True for a batch normalization of any dimension. `nn.modules.batchnorm._BatchNorm`, every torch."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm)


def drops_out(module: nn.Module) -> bool:
    """True for torch's dropout modules. `nn.modules.dropout._DropoutNd`, every torch."""
    from torch.nn.modules.dropout import _DropoutNd

    return isinstance(module, _DropoutNd)


def import_compiler() -> None:
    """Imports `torch._dynamo`, torch >= 2.0: the first optimizer would import it, which takes seconds."""
    import torch._dynamo  # noqa: F401


def allow_compilations(count: int, accumulated: int) -> None:
    """Lets this process compile a function `count` times, and `accumulated` times in all.

    `torch._dynamo.config`, torch >= 2.0. A torch without such a limit has nothing to lift.
    """
    import torch._dynamo

    config = torch._dynamo.config
    name = next((name for name in _LIMITS if hasattr(config, name)), None)
    if name is not None:
        setattr(config, name, count)
        setattr(config, f"accumulated_{name}", accumulated)


def compiled_frames() -> int:
    """The number of functions that this process has compiled so far. `torch._dynamo.utils`, torch >= 2.0."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"]


def is_compiled_wrapper(value: object) -> bool:
    """True for the module that `torch.compile(module)` returns. `OptimizedModule`, torch >= 2.0."""
    # A process that has not imported it has compiled nothing.
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return frames is not None and isinstance(value, frames.OptimizedModule)


def wrapped_module(wrapper: Any) -> nn.Module:
    """The module that `torch.compile` was given. `OptimizedModule._orig_mod`, torch >= 2.0."""
    module: nn.Module = wrapper._orig_mod
    return module


def compiled_call(value: object) -> Any:
    """The call that `module.compile()` has put in place of the module's; None without one.

    `nn.Module._compiled_call_impl`, torch >= 2.0.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.nn.Module):
        return None
    return value.__dict__.get("_compiled_call_impl")


def compile_settings(compiled: Any) -> dict[str, Any]:
    """The arguments that torch.compile was called with, for a compiled wrapper or a compiled call.

    `torch._dynamo.eval_frame`, torch >= 2.0. Empty where this torch keeps them elsewhere: the model is then
    compiled with the default settings.
    """
    import torch

    context = compiled.dynamo_ctx if is_compiled_wrapper(compiled) else _context_of_call(compiled)
    try:
        backend = _innermost_backend(context.callback)
        settings = {"dynamic": context._dynamic, "fullgraph": _is_fullgraph(context)}
        if isinstance(backend, torch._TorchCompileInductorWrapper):
            return {**settings, "options": backend.config or None}
        if isinstance(backend, torch._TorchCompileWrapper):
            return {**settings, "backend": backend.compiler_fn, **backend.kwargs}
    except AttributeError:
        return {}
    return {**settings, "backend": backend}


def _context_of_call(call: Any) -> Any:
    """The context that torch.compile has closed a function over; None where this torch has none there."""
    cells = dict(zip(call.__code__.co_freevars, call.__closure__ or (), strict=False))
    return cells["self"].cell_contents if "self" in cells else None


def _is_fullgraph(context: Any) -> bool:
    """Whether a graph break is an error: newer torch keeps it, older torch has another converter for it."""
    if hasattr(context, "fullgraph"):
        return bool(context.fullgraph)
    from torch._dynamo.convert_frame import ConvertFrame

    return not isinstance(_wrapped_backend(context.callback), ConvertFrame)


def _innermost_backend(backend: Any) -> Any:
    """The backend that the user named, below those that torch wraps around it."""
    while (wrapped := _wrapped_backend(backend)) is not None:
        backend = wrapped
    return backend


def _wrapped_backend(backend: Any) -> Any:
    """The backend that another wraps; None where it wraps none."""
    return next((getattr(backend, name) for name in _WRAPPED_BACKEND if hasattr(backend, name)), None)

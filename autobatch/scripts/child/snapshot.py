"""The state of a training in a file: to start again from, in this process or in a restarted one."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def find_roots(parameters: Sequence[torch.Tensor]) -> list[nn.Module]:
    """The outermost modules that hold some of these parameters; the largest first."""
    # Not `isinstance`: it would wake up what libraries import lazily.
    modules = [candidate for candidate in gc.get_objects() if issubclass(type(candidate), nn.Module)]
    wanted = {id(parameter) for parameter in parameters}
    holders = [m for m in modules if any(id(p) in wanted for p in m.parameters())]
    inner = {id(child) for holder in holders for child in holder.modules() if child is not holder}
    roots = [holder for holder in holders if id(holder) not in inner]
    return sorted(roots, key=lambda root: -sum(p.numel() for p in root.parameters()))


def _parameters(optimizer: Any) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _buffers(roots: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [buffer for root in roots for buffer in root.buffers()]


def save(path: str, optimizers: Sequence[Any], roots: Sequence[nn.Module]) -> None:
    """Write parameters, buffers and optimizer states to `path`."""
    torch.save(
        {
            "parameters": [[p.detach() for p in _parameters(o)] for o in optimizers],
            "buffers": [buffer.detach() for buffer in _buffers(roots)],
            "states": [o.state_dict()["state"] for o in optimizers],
        },
        path,
    )


def restore(path: str, optimizers: Sequence[Any], roots: Sequence[nn.Module]) -> None:
    """Put all of it back. Learning rates and other options of the optimizers stay as they are.

    Raises RuntimeError or ValueError where the training has other tensors than the saved one.
    """
    kept = torch.load(path, map_location="cpu", weights_only=False)
    with torch.no_grad():
        for optimizer, values in zip(optimizers, kept["parameters"], strict=True):
            for parameter, value in zip(_parameters(optimizer), values, strict=True):
                # Of several optimizers, the first may step while a backward pass of another is still to come.
                # By `data` that pass goes on, and one gradient mixes the weights of before and after.
                parameter.data.copy_(value)
                parameter.grad = None
        for buffer, value in zip(_buffers(roots), kept["buffers"], strict=True):
            buffer.data.copy_(value)
    for optimizer, state in zip(optimizers, kept["states"], strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

"""Trace a training step under a log of its storages: on small real batches, or on fake tensors.

On fake tensors (FakeTensorMode) every operator runs for its shapes alone: without data, without memory, for
any device. They are CPU tensors whatever the device, because torch can't train on fake tensors of a device
that it was not built for. On a CPU, real tensors give the same log sooner, also where a step's path depends
on its data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from autobatch.devices.tracing_internals import FakeTensorMode, tree_leaves, tree_map
from autobatch.memory.fake_results import FakeResults
from autobatch.memory.storage_log import Kind
from autobatch.memory.storage_recorder import StorageRecorder, Trace, run_directly
from autobatch.workload.keras.optimizer import FollowedOptimizer

# The second step is the first that starts with the optimizer's state.
_STEPS = 2


def trace_step(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Any,
    step: Callable[[Any], object],
    *,
    fake: bool,
    channels_last: bool = False,
) -> Trace:
    """The log of two whole steps on `batch`, including parameters and batch.

    `channels_last`: images, and the weights with their layout, have their channels last in memory.
    Afterwards model and optimizers serve only for further traces: they have trained, or hold fake tensors.
    Raises what the step raises; on fake tensors also where the step's path depends on its data.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
    if channels_last:
        _use_channels_last(model)
        batch = tree_map(_channels_last, batch)
    if mode is not None:
        _fill_with_fakes(model, optimizers, mode)
        batch = tree_map(lambda leaf: _fake(leaf, mode) if isinstance(leaf, torch.Tensor) else leaf, batch)
    recorder = StorageRecorder(run_directly if mode is None else FakeResults(mode).run)
    for tensor in (*model.parameters(), *model.buffers(), *tree_leaves(batch)):
        recorder.note(tensor)
    recorder.mark((*model.parameters(), *model.buffers()), Kind.PARAMETER)
    # A compiled step allocates inside its kernels, where no log sees it.
    with torch.compiler.set_stance("force_eager"), mode or contextlib.nullcontext(), recorder:
        with recorder.watch(optimizers):
            for _ in range(_STEPS):
                step(batch)
        # Before the modes end: storages that they release don't belong to the step.
        return recorder.close()


def _use_channels_last(model: nn.Module) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
            tensor.data = _channels_last(tensor.data)


def _channels_last(value: Any) -> Any:
    """A tensor of four dimensions with the second last in memory; any other value unchanged."""
    if isinstance(value, torch.Tensor) and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _fill_with_fakes(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], mode: FakeTensorMode
) -> None:
    """Replace every parameter and buffer by a fake; shared tensors stay shared."""
    # Each tensor is kept beside its fake, because Python may give the id of a dead tensor to another.
    fakes: dict[int, tuple[Any, Any]] = {}

    def fake_of(tensor: Any) -> Any:
        return fakes.setdefault(id(tensor), (tensor, _fake_like(tensor, mode)))[1]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake_of(tensor) for name, tensor in tensors.items() if tensor is not None})
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [
                fake_of(tensor) if id(tensor) in fakes else tensor for tensor in group["params"]
            ]
        if isinstance(optimizer, FollowedOptimizer):
            optimizer.replace_values(fake_of)


def _fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    made = _fake(tensor.detach(), mode)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """A fake CPU tensor of the same shape, strides and dtype."""
    with mode:
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return made.requires_grad_(tensor.requires_grad)

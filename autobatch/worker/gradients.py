"""Measures the noise of the gradient, inside the worker: chunks at frozen weights, in train mode.

Beside the memory of a training step it takes one gradient buffer for the running sum, one byte an entry for
random signs, and 64 KiB a chunk. autobatch.decision.noise_scale says why the sums it returns are enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import nn

from autobatch.decision.constants import FEWEST_CHUNKS, SKETCH_WIDTH
from autobatch.decision.noise_scale import Chunks
from autobatch.devices.torch_internals import buffer_slots
from autobatch.workload.buffers import put_back
from autobatch.workload.trainer import Trainer


def measure_chunks(
    trainer: Trainer, chunk_size: int, chunks: int, seed: int, deadline: float = inf
) -> Chunks:
    """The sums over `chunks` chunks of `chunk_size` samples each. Weights, buffers and random state stay.

    After `deadline` (by time.perf_counter) no further chunk begins, once there are enough for an estimate.
    """
    parameters = _trained(trainer)
    device = parameters[0].device
    signs = [_signs(p, seed + index) for index, p in enumerate(parameters)]
    # Sums in half precision would lose the part that the chunks have in common.
    total = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    norms: list[float] = []
    sketch = torch.zeros(chunks, SKETCH_WIDTH)
    with _unchanged(trainer, device):
        for index in range(chunks):
            trainer.backward(trainer.load(chunk_size, seed + index))
            gradients = [_dense(p) for p in parameters]
            sketch[index] = _row(gradients, signs, device)
            norms.append(_squared_norm(gradients))
            for whole, part in zip(total, gradients, strict=True):
                whole += part
            _forget_gradients(trainer)
            if time.perf_counter() > deadline and index + 1 >= FEWEST_CHUNKS:
                break
    sketch = sketch[: len(norms)]
    along = (sketch @ sketch.sum(0)).tolist()
    squares = sketch.square().sum(1).tolist()
    return Chunks(
        chunk_size=chunk_size,
        squared_norms=tuple(norms),
        inner_products=tuple(p - r + q for p, r, q in zip(along, squares, norms, strict=True)),
        sum_squared_norm=_squared_norm(total),
    )


def has_batch_norm(model: nn.Module) -> bool:
    """True where a chunk's samples see each other, so that chunks must not be too small."""
    names = ("_BatchNorm", "BatchNormalization")
    # Keras keeps its layers where torch does not find them.
    parts = getattr(model, "_flatten_layers", model.modules)()
    return any(base.__name__ in names for part in parts for base in type(part).__mro__)


def _trained(trainer: Trainer) -> list[torch.Tensor]:
    """The parameters that the optimizers train. The model may have more, whose gradients nothing uses."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return list(dict.fromkeys(p for group in groups for p in group["params"] if p.requires_grad))


@contextmanager
def _unchanged(trainer: Trainer, device: torch.device) -> Iterator[None]:
    """A context without gradients at both ends that puts buffers and random state back."""
    buffers = buffer_slots(trainer.model)
    values = [None if buffer is None else buffer.clone() for _, _, buffer in buffers]
    drifted = [(tensor, tensor.clone()) for tensor in trainer.drifting]
    devices: list[Any] = [] if device.type == "cpu" else [device]
    _forget_gradients(trainer)
    try:
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            yield
    finally:
        _forget_gradients(trainer)
        with torch.no_grad():
            put_back(buffers, values)
            for tensor, value in drifted:
                tensor.copy_(value)


def _forget_gradients(trainer: Trainer) -> None:
    trainer.model.zero_grad(set_to_none=True)
    for optimizer in trainer.optimizers:
        optimizer.zero_grad(set_to_none=True)


def _signs(parameter: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (parameter.numel(),), generator=generator, dtype=torch.int8) * 2 - 1
    return signs.to(parameter.device)


def _dense(parameter: torch.Tensor) -> torch.Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


def _squared_norm(tensors: list[torch.Tensor]) -> float:
    # Apple's devices have no double precision.
    dtype = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    return sum(float(torch.linalg.vector_norm(t, dtype=dtype)) ** 2 for t in tensors)


def _row(gradients: list[torch.Tensor], signs: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """The gradient times the signs, folded to SKETCH_WIDTH numbers by the position of each entry."""
    row = torch.zeros(SKETCH_WIDTH, dtype=torch.float32, device=device)
    start = 0
    for gradient, sign in zip(gradients, signs, strict=True):
        flat = gradient.flatten().float() * sign
        padded = nn.functional.pad(flat, (start, -(start + flat.numel()) % SKETCH_WIDTH))
        row += padded.view(-1, SKETCH_WIDTH).sum(0)
        start = (start + flat.numel()) % SKETCH_WIDTH
    return row

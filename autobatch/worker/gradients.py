"""Measures the noise of the gradient, inside the worker: chunks at frozen weights, in train mode.

Beside the memory of a training step it takes one gradient buffer for the running sum, one byte an entry for
random signs, and 64 KiB a chunk. autobatch.decision.noise_scale says why the sums it returns are enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
    sketch = GradientSketch(trainer, seed)
    parameters = sketch.parameters
    # Sums in half precision would lose the part that the chunks have in common.
    total = [
        torch.zeros_like(real, dtype=torch.promote_types(real.dtype, torch.float32))
        for real in map(_real, parameters)
    ]
    norms: list[float] = []
    rows = torch.zeros(chunks, SKETCH_WIDTH)
    with unchanged(trainer):
        for index in range(chunks):
            trainer.backward(trainer.load(chunk_size, seed + index))
            gradients = [gradient_of(p) for p in parameters]
            rows[index] = sketch.row(gradients)
            norms.append(_squared_norm(gradients))
            for whole, part in zip(total, gradients, strict=True):
                whole += part
            forget_gradients(trainer)
            if time.perf_counter() > deadline and index + 1 >= FEWEST_CHUNKS:
                break
    rows = rows[: len(norms)]
    along = (rows @ rows.sum(0)).tolist()
    squares = rows.square().sum(1).tolist()
    return Chunks(
        chunk_size=chunk_size,
        squared_norms=tuple(norms),
        inner_products=tuple(p - r + q for p, r, q in zip(along, squares, norms, strict=True)),
        sum_squared_norm=_squared_norm(total),
    )


class GradientSketch:
    """Folds gradients to rows of SKETCH_WIDTH numbers: entries times random signs, added up by position.

    The fold is linear, and exact for gradients of at most that many entries. Beyond, products of rows are
    those of the gradients up to a relative error of about 1 / sqrt(SKETCH_WIDTH).
    """

    def __init__(self, trainer: Trainer, seed: int) -> None:
        """`seed`: of the signs, from which each parameter counts on."""
        self.parameters = _trained(trainer)
        self._device = self.parameters[0].device
        self._signs = [_signs(p, seed + index) for index, p in enumerate(self.parameters)]

    def row(self, gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """The row of a gradient, given for each of `parameters`; None stands for zeros."""
        row = torch.zeros(SKETCH_WIDTH, dtype=torch.float32, device=self._device)
        start = 0
        for gradient, sign in zip(gradients, self._signs, strict=True):
            if gradient is not None:
                flat = gradient.flatten().float() * sign
                padded = nn.functional.pad(flat, (start, -(start + flat.numel()) % SKETCH_WIDTH))
                row += padded.view(-1, SKETCH_WIDTH).sum(0)
            start = (start + sign.numel()) % SKETCH_WIDTH
        return row


def gradient_of(parameter: torch.Tensor) -> torch.Tensor:
    """The gradient in a parameter, dense and real: a complex entry is its two parts. Zeros without one."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(_real(parameter))
    return _real(gradient.to_dense() if gradient.is_sparse else gradient)


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
def unchanged(trainer: Trainer) -> Iterator[None]:
    """A context without gradients at both ends that puts buffers and random state back."""
    device = next(iter(trainer.model.parameters())).device
    buffers = buffer_slots(trainer.model)
    values = [None if buffer is None else buffer.clone() for _, _, buffer in buffers]
    drifted = [(tensor, tensor.clone()) for tensor in trainer.drifting]
    devices: list[Any] = [] if device.type == "cpu" else [device]
    forget_gradients(trainer)
    try:
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            yield
    finally:
        forget_gradients(trainer)
        with torch.no_grad():
            put_back(buffers, values)
            for tensor, value in drifted:
                tensor.copy_(value)


def forget_gradients(trainer: Trainer) -> None:
    """Deletes the gradients of the model and of everything that an optimizer trains."""
    trainer.model.zero_grad(set_to_none=True)
    for optimizer in trainer.optimizers:
        optimizer.zero_grad(set_to_none=True)


def _signs(parameter: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = _real(parameter).numel()
    signs = torch.randint(2, (count,), generator=generator, dtype=torch.int8) * 2 - 1
    return signs.to(parameter.device)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """A view of the tensor with a last dimension for real and imaginary parts, where it is complex."""
    tensor = tensor.detach()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _squared_norm(tensors: list[torch.Tensor]) -> float:
    # Apple's devices have no double precision.
    dtype = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    return sum(float(torch.linalg.vector_norm(t, dtype=dtype)) ** 2 for t in tensors)

"""Results of a few operators on fake tensors from the shapes of their inputs alone.

Fake tensors take longest to dispatch these operators, and models have them at dozens of shapes. A rule gives
None for inputs that it doesn't cover; the operator then runs on fake tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import torch

from autobatch.devices.tracing_internals import FakeTensor

_aten = torch.ops.aten
DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of a result, with a new storage, or with that of the input number `source`.

    `is_input`: the tensor is that input itself.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    source: int | None = None
    is_input: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A result: its tensors (None for an absent tensor), and the type of their sequence, if any."""

    outputs: tuple[Output | None, ...]
    sequence_type: type | None = None


def _contiguous(shape: Iterable[int], dtype: torch.dtype) -> Output:
    sizes = tuple(shape)
    strides = itertools.accumulate((max(1, size) for size in sizes[:0:-1]), mul, initial=1)
    return Output(sizes, tuple(strides)[::-1] if sizes else (), 0, dtype)


def _like(tensor: FakeTensor, dtype: torch.dtype | None = None) -> Output:
    return Output(tuple(tensor.shape), tensor.stride(), 0, dtype or tensor.dtype)


def _keeps_strides(tensor: FakeTensor) -> bool:
    """True where a tensor made like this one has the same strides. With a size of 1 they may differ."""
    return min(tensor.shape, default=2) > 1 and (
        tensor.is_contiguous()
        or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    )


def _are_alike(gradient: FakeTensor, values: FakeTensor) -> bool:
    same_shape = gradient.shape == values.shape and gradient.stride() == values.stride()
    return same_shape and gradient.dtype == values.dtype and _keeps_strides(gradient)


def _batch_norm(
    values: FakeTensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any
) -> Recipe | None:
    if not training or not _keeps_strides(values):
        return None
    statistic = _contiguous(values.shape[1:2], values.dtype)
    return Recipe((_like(values), statistic, statistic), tuple)


def _batch_norm_backward(gradient: FakeTensor, values: FakeTensor, weight: Any, *rest: Any) -> Recipe | None:
    training, output_mask = rest[4], rest[6]
    if not training or weight is None or not all(output_mask) or not _are_alike(gradient, values):
        return None
    of_weight = _contiguous(weight.shape, weight.dtype)
    return Recipe((_like(values), of_weight, of_weight), tuple)


def _layer_norm(
    values: FakeTensor, shape: Sequence[int], weight: Any, bias: Any, epsilon: float
) -> Recipe | None:
    if not _keeps_strides(values) or not values.is_contiguous():
        return None
    statistic = _contiguous((*values.shape[: -len(shape)], *(1 for _ in shape)), values.dtype)
    return Recipe((_contiguous(values.shape, values.dtype), statistic, statistic), tuple)


def _matrix_product(bias: FakeTensor, left: FakeTensor, right: FakeTensor, **_: Any) -> Recipe | None:
    if left.shape[1:] != right.shape[:1] or not bias.dtype == left.dtype == right.dtype:
        return None
    return Recipe((_contiguous((*left.shape[:1], *right.shape[1:]), left.dtype),))


def _elementwise_backward(gradient: FakeTensor, values: FakeTensor, *_: Any, **__: Any) -> Recipe | None:
    return Recipe((_like(values),)) if _are_alike(gradient, values) else None


def _conversion(values: FakeTensor, **settings: Any) -> Recipe | None:
    if settings.keys() != {"dtype"} or not _keeps_strides(values) or settings["dtype"] not in DTYPES:
        return None
    return Recipe((_like(values, settings["dtype"]),))


RULES: dict[Any, Callable[..., Recipe | None]] = {
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.addmm.default: _matrix_product,
    _aten._to_copy.default: _conversion,
    _aten.threshold_backward.default: _elementwise_backward,
    _aten.gelu_backward.default: _elementwise_backward,
    _aten.silu_backward.default: _elementwise_backward,
    _aten.hardswish_backward.default: _elementwise_backward,
}

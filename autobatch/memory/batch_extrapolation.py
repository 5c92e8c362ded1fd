"""A batch of any size without its data, extrapolated from two small loaded batches."""

from __future__ import annotations

from typing import Any

import torch

from autobatch.devices.tracing_internals import tree_flatten, tree_unflatten


class ExtrapolationError(Exception):
    """Two batches differ in more than the lengths of their tensors."""


def extrapolate_batch(first: Any, first_size: int, second: Any, second_size: int, size: int) -> Any:
    """The batch of `size` samples, with tensors without data (on the `meta` device).

    Each length of a tensor lies on the straight line through its lengths in the two batches. Raises
    ExtrapolationError where the batches have different parts, or a length would not be a whole number.
    """
    first_leaves, structure = tree_flatten(first)
    second_leaves, second_structure = tree_flatten(second)
    if structure != second_structure:
        raise ExtrapolationError("a batch has other parts at another size")
    share = (size - first_size) / (second_size - first_size)
    leaves = [_extrapolate_leaf(*pair, share) for pair in zip(first_leaves, second_leaves, strict=True)]
    return tree_unflatten(leaves, structure)


def _extrapolate_leaf(first: Any, second: Any, share: float) -> Any:
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        if first is second or (type(first) is type(second) and first == second):
            return first
        raise ExtrapolationError(f"a {type(first).__name__} in a batch depends on its size")
    if first.dim() != second.dim() or first.dtype != second.dtype:
        raise ExtrapolationError(
            "a tensor in a batch has another dtype or number of dimensions at another size"
        )
    lengths = [a + share * (b - a) for a, b in zip(first.shape, second.shape, strict=True)]
    if any(length < 0 or length != int(length) for length in lengths):
        raise ExtrapolationError("a length in a batch does not grow linearly with its size")
    return torch.empty([int(length) for length in lengths], dtype=first.dtype, device="meta")

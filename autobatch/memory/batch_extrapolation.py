"""A batch of any size without its data, from two small ones that were loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten


class NotStretchableError(Exception):
    """Two batches differ in more than the lengths of their tensors."""


def stretched(first: Any, first_size: int, second: Any, second_size: int, size: int) -> Any:
    """The batch of `size` samples, its tensors without data (on the `meta` device).

    Each length of a tensor is a straight line through those in the two batches. Raises NotStretchableError
    where they don't have the same parts, or lengths would not be whole.
    """
    ones, shape = tree_flatten(first)
    others, other_shape = tree_flatten(second)
    if shape != other_shape:
        raise NotStretchableError("a batch has other parts at another size")
    leaves = [
        _leaf(one, other, (size - first_size) / (second_size - first_size))
        for one, other in zip(ones, others, strict=True)
    ]
    return tree_unflatten(leaves, shape)


def _leaf(one: Any, other: Any, share: float) -> Any:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        if one is other or (type(one) is type(other) and one == other):
            return one
        raise NotStretchableError(f"a {type(one).__name__} in a batch depends on its size")
    if one.dim() != other.dim() or one.dtype != other.dtype:
        raise NotStretchableError("a tensor in a batch has another form at another size")
    lengths = [a + share * (b - a) for a, b in zip(one.shape, other.shape, strict=True)]
    if any(length < 0 or length != int(length) for length in lengths):
        raise NotStretchableError("a length in a batch is not a straight line of its size")
    return torch.empty([int(length) for length in lengths], dtype=one.dtype, device="meta")

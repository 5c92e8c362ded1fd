"""Batches as they come: tensors, tuples, dicts, nested."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from autobatch.devices.torch_internals import tree_map

_DESCRIBED_PARTS = 6
_TARGET_KEYS = ("labels", "label", "target", "targets", "y")


def to_device(batch: Any, device: str | torch.device) -> Any:
    """The same nested batch with its tensors on `device`.

    Objects with a `to`, such as PackedSequence or BatchEncoding, move by that, dataclasses by their fields. A
    `to` that returns nothing has moved its object in place.
    """

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.to(device, non_blocking=True)
        if _moves_itself(leaf):
            elsewhere = leaf.to(device)
            return leaf if elsewhere is None else elsewhere
        # tree_map takes a class that it does not know, such as a subclass of list, for a leaf.
        if isinstance(leaf, Mapping):
            return _rebuilt(leaf, {key: to_device(value, device) for key, value in leaf.items()})
        if isinstance(leaf, (list, tuple)):
            return type(leaf)(to_device(part, device) for part in leaf)
        if is_dataclass(leaf) and not isinstance(leaf, type):
            return _copied(leaf, device)
        return leaf

    return tree_map(moved, batch, is_leaf=_moves_itself)


def split_batch(batch: Any) -> tuple[Any, Any]:
    """(inputs, target) of a batch; the target is None where there is none."""
    if isinstance(batch, Mapping):
        key = next((key for key in _TARGET_KEYS if key in batch), None)
        rest = {name: value for name, value in batch.items() if name != key}
        return rest, None if key is None else batch[key]
    if is_sequence_of_parts(batch) and len(batch) >= 2:
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        return inputs, batch[-1]
    if is_sequence_of_parts(batch) and len(batch) == 1:
        return batch[0], None
    return batch, None


def is_sequence_of_parts(part: Any) -> bool:
    """True for a list or a tuple of inputs. A PackedSequence is a tuple, and a single input."""
    return isinstance(part, (list, tuple)) and not isinstance(part, PackedSequence)


def describe_batch(batch: Any) -> str:
    """The first parts of a batch, such as `(float32[8, 3, 32, 32], int64[8])`."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        parts = [f"{key}: {describe_batch(batch[key])}" for key in islice(batch, _DESCRIBED_PARTS)]
        return f"{{{_listed(parts, len(batch))}}}"
    if isinstance(batch, (list, tuple)):
        parts = [describe_batch(part) for part in batch[:_DESCRIBED_PARTS]]
        return f"({_listed(parts, len(batch))})"
    return type(batch).__name__


def _listed(parts: list[str], count: int) -> str:
    return ", ".join([*parts, "..."] if count > len(parts) else parts)


def _moves_itself(part: Any) -> bool:
    return hasattr(part, "to")


def _copied(batch: Any, device: str | torch.device) -> Any:
    """The same dataclass with its fields on the device. Its constructor may take other arguments."""
    moved = copy.copy(batch)
    for field in fields(batch):
        # A frozen dataclass refuses an assignment.
        object.__setattr__(moved, field.name, to_device(getattr(batch, field.name), device))
    return moved


def _rebuilt(batch: Mapping[str, Any], moved: dict[str, Any]) -> Any:
    try:
        return type(batch)(moved)  # type: ignore[call-arg]
    except TypeError:
        return moved

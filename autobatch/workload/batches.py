"""Batches as they come: tensors, tuples, dicts, nested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_TARGET_KEYS = ("labels", "label", "target", "targets", "y")


def to_device(batch: Any, device: str) -> Any:
    """The same nested batch with its tensors on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(one, device) for one in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(one, device) for one in batch)
    if isinstance(batch, Mapping):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        return moved if type(batch) is dict else _rebuilt(batch, moved)
    return batch.to(device) if hasattr(batch, "to") else batch


def split_batch(batch: Any) -> tuple[Any, Any]:
    """(inputs, target) of a batch; the target is None where there is none."""
    if isinstance(batch, Mapping):
        key = next((key for key in _TARGET_KEYS if key in batch), None)
        rest = {name: value for name, value in batch.items() if name != key}
        return rest, None if key is None else batch[key]
    if isinstance(batch, (list, tuple)) and len(batch) >= 2:
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        return inputs, batch[-1]
    if isinstance(batch, (list, tuple)) and len(batch) == 1:
        return batch[0], None
    return batch, None


def _rebuilt(batch: Mapping[str, Any], moved: dict[str, Any]) -> Any:
    try:
        return type(batch)(moved)  # type: ignore[call-arg]
    except TypeError:
        return moved

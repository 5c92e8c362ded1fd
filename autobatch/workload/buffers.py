"""The buffers of a model, such as running statistics, put back after a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from autobatch.devices.torch_internals import fill_buffer

if TYPE_CHECKING:
    from autobatch.devices.torch_internals import BufferSlot


def put_back(buffers: Sequence[BufferSlot], values: Sequence[torch.Tensor | None]) -> None:
    """Gives the buffers these values. A forward pass may have filled or replaced a buffer."""
    for (module, name, buffer), value in zip(buffers, values, strict=True):
        if buffer is None or value is None:
            fill_buffer(module, name, None)
        elif 0 in buffer.stride():
            # Entries that share memory can't be written to.
            fill_buffer(module, name, value.to(buffer.device))
        else:
            buffer.copy_(value)
            fill_buffer(module, name, buffer)

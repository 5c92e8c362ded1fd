"""Buffers put back: filled, replaced, emptied or shared."""

from __future__ import annotations

import torch
from torch import nn

from autobatch.devices.torch_internals import buffer_slots
from autobatch.workload.buffers import put_back


class Caching(nn.Module):
    """Fills a buffer, replaces another, and changes a third in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", None)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("shared", torch.zeros(1).expand(3))

    def forward(self) -> None:
        self.cache = torch.ones(4)
        self.scale = torch.full((2,), 9.0)
        self.steps += 1
        self.shared = torch.arange(3.0)


def test_every_buffer_is_as_before() -> None:
    model = Caching()
    slots, steps = buffer_slots(model), model.steps
    values = [None if buffer is None else buffer.clone() for _, _, buffer in slots]
    model()
    put_back(slots, values)
    assert model.cache is None
    assert model.steps is steps
    assert (model.scale.tolist(), model.steps.tolist()) == ([1.0, 1.0], [0.0])
    assert model.shared.tolist() == [0.0, 0.0, 0.0]

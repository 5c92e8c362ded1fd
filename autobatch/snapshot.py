"""A model, its optimizers and the random state as they were, to start again from."""

from __future__ import annotations

import random
import tempfile
from typing import Any

import numpy
import torch
from torch import nn

from autobatch.workload import Trainer


class Snapshot:
    """What training changes, kept in a file that has no name, so that it takes no memory meanwhile."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._buffers = list(_buffers(trainer.model))
        self._file = tempfile.TemporaryFile(prefix="autobatch-")  # noqa: SIM115, it ends with the session
        torch.save(
            {
                "parameters": [p.detach() for p in trainer.model.parameters()],
                "buffers": [buffer for _, _, buffer in self._buffers],
                "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            },
            self._file,
        )
        self._random = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
        self._device = _device_of(trainer.model)
        self._device_random = _device_random(self._device)

    def restore(self) -> None:
        """Puts everything back, and forgets gradients."""
        self._file.seek(0)
        kept = torch.load(self._file, map_location="cpu", weights_only=False)
        with torch.no_grad():
            for parameter, value in zip(self._trainer.model.parameters(), kept["parameters"], strict=True):
                parameter.copy_(value)
                parameter.grad = None
            for (module, name, buffer), value in zip(self._buffers, kept["buffers"], strict=True):
                # A forward pass may have put another tensor in its place.
                buffer.copy_(value)
                setattr(module, name, buffer)
        for optimizer, state in zip(self._trainer.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        python, numbers, torch_state = self._random
        random.setstate(python)
        numpy.random.set_state(numbers)
        torch.set_rng_state(torch_state)
        if self._device_random is not None:
            torch.get_device_module(self._device).set_rng_state(self._device_random)


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, torch.Tensor]]:
    return [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]


def _device_of(model: nn.Module) -> torch.device:
    return next(iter(model.parameters())).device


def _device_random(device: torch.device) -> Any:
    return None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()

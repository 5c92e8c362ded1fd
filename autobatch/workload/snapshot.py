"""A snapshot of model, optimizers, schedules and random state, to start again from."""

from __future__ import annotations

import random
import tempfile
from typing import Any

import numpy
import torch
from torch import nn

from autobatch.devices.torch_internals import buffer_slots
from autobatch.workload.buffers import put_back
from autobatch.workload.plain_state import PlainState
from autobatch.workload.trainer import Trainer


class Snapshot:
    """The state that training changes. Weights lie in a file without a name, so that they take no memory."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._buffers = buffer_slots(trainer.model)
        self._file = tempfile.TemporaryFile(prefix="autobatch-")  # noqa: SIM115, it ends with the session
        torch.save(
            {
                "parameters": [p.detach() for p in trainer.model.parameters()],
                "buffers": [buffer for _, _, buffer in self._buffers],
                "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            },
            self._file,
        )
        self._plain = PlainState(trainer)
        self._random = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
        self._arithmetic = trainer.arithmetic.state()
        self._device = _device_of(trainer.model)
        self._device_random = _device_random(self._device)

    def restore(self) -> None:
        """Puts everything back, and deletes gradients."""
        self._file.seek(0)
        kept = torch.load(self._file, map_location="cpu", weights_only=False)
        with torch.no_grad():
            for parameter, value in zip(self._trainer.model.parameters(), kept["parameters"], strict=True):
                parameter.copy_(value)
                parameter.grad = None
            put_back(self._buffers, kept["buffers"])
        for optimizer, state in zip(self._trainer.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self._plain.restore()
        self._trainer.arithmetic.restore(self._arithmetic)
        python, numbers, torch_state = self._random
        random.setstate(python)
        numpy.random.set_state(numbers)
        torch.set_rng_state(torch_state)
        if self._device_random is not None:
            torch.get_device_module(self._device).set_rng_state(self._device_random)


def _device_of(model: nn.Module) -> torch.device:
    return next(iter(model.parameters())).device


def _device_random(device: torch.device) -> Any:
    return None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()

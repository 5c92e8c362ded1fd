"""The loss of a batch that is not trained on, in the first mode in which the model gives one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autobatch.devices.oom import Cause, classify
from autobatch.devices.torch_internals import buffer_slots
from autobatch.workload.buffers import put_back

# Dropout draws the same in each evaluation in training mode, so that losses can be compared.
_SEED = 0


@dataclass(frozen=True, slots=True)
class _Mode:
    """`training`: the model is in training mode. `gradients`: autograd records, for losses of gradients."""

    training: bool
    gradients: bool


# Detectors give losses in training mode only. Gradient penalties need a graph.
_MODES = (_Mode(False, False), _Mode(False, True), _Mode(True, False), _Mode(True, True))


class Evaluation:
    """Evaluates batches. `note` says how, where it is not in evaluation mode; else it is empty."""

    def __init__(self) -> None:
        self._mode: _Mode | None = None

    @property
    def note(self) -> str:
        return "in training mode" if self._mode is not None and self._mode.training else ""

    def loss(self, model: nn.Module, compute: Callable[[], torch.Tensor], device: str) -> torch.Tensor:
        """The loss that `compute` gives. The model is in training mode after, with its buffers as before.

        Raises the error of evaluation mode where no mode gives a loss.
        """
        first_error: Exception | None = None
        for mode in _MODES if self._mode is None else (self._mode,):
            try:
                with _in_mode(model, mode, device):
                    loss = compute().detach()
            except Exception as error:
                if classify(error) is not Cause.USER_ERROR:
                    raise
                first_error = first_error or error
            else:
                self._mode = mode
                return loss
        assert first_error is not None
        raise first_error


@contextlib.contextmanager
def _in_mode(model: nn.Module, mode: _Mode, device: str) -> Iterator[None]:
    """A context in a mode. Parts that stay out of training stay out after."""
    modes = [(module, module.training) for module in model.modules()]
    kept = _state_kept(model, device) if mode.training else contextlib.nullcontext()
    with kept, torch.set_grad_enabled(mode.gradients):
        if not mode.training:
            model.eval()
        try:
            yield
        finally:
            model.train()
            for module, training in modes:
                module.training = training


@contextlib.contextmanager
def _state_kept(model: nn.Module, device: str) -> Iterator[None]:
    """A context that puts buffers and torch's random state back: training mode changes both."""
    buffers = buffer_slots(model)
    values = [None if buffer is None else buffer.clone() for _, _, buffer in buffers]
    kind = torch.device(device).type
    devices: list[Any] = [] if kind == "cpu" else [torch.device(device)]
    with torch.random.fork_rng(devices, device_type="cuda" if kind == "cpu" else kind):
        torch.manual_seed(_SEED)
        try:
            yield
        finally:
            with torch.no_grad():
                put_back(buffers, values)

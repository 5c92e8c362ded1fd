"""The loop of a user's `step(model, optimizers, batch)`, which makes the whole step by itself.

A LightningModule with manual optimization trains by it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autobatch.workload.parts import Parts
from autobatch.workload.training_loop import EnterPhase, TrainingLoop


class StepLoop(TrainingLoop):
    """Trains by the user's `step`, which hides its loss, its gradients and its precision."""

    loss_name = "your `step`"
    why_no_gradient = "your `step` keeps its gradients to itself"

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        device: str,
        enter_phase: EnterPhase,
        step: Callable[..., Any],
    ) -> None:
        super().__init__(parts, model, device, enter_phase)
        self._step = step

    def step(self, batch: Any) -> torch.Tensor | None:
        optimizers = self.optimizers if len(self.optimizers) > 1 else self.optimizers[0]
        loss = self._step(self._replica, optimizers, batch)
        if isinstance(loss, (int, float)):
            return torch.tensor(float(loss))
        return loss.detach() if isinstance(loss, torch.Tensor) else None

    def backward(self, batch: Any) -> torch.Tensor:
        raise self.no_gradient()

    def evaluation_loss(self, batch: Any) -> torch.Tensor:
        raise self.no_gradient()

    def module_of_step(self) -> nn.Module:
        return self.model

    def call_of_step(self) -> Callable[..., Any]:
        return self.model

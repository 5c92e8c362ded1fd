"""The loop of a loss: forward, backward, optimizer step.

It trains plain models, models with a `training_step`, and LightningModules with automatic optimization. They
differ in the loss alone, and in when gradients are zeroed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autobatch.workload import loss_choice
from autobatch.workload.loss import scalar
from autobatch.workload.parts import Parts
from autobatch.workload.precision import MOST_SKIPS, Arithmetic, gradient_not_finite
from autobatch.workload.process_group import BatchLoss
from autobatch.workload.samples import Samples
from autobatch.workload.training_loop import EnterPhase, TrainingLoop


class LossLoop(TrainingLoop):
    """Trains by the gradient of a loss, which the target gives or leaves to be inferred."""

    def __init__(
        self,
        parts: Parts,
        model: nn.Module,
        samples: Samples,
        device: str,
        arithmetic: Arithmetic,
        enter_phase: EnterPhase,
        *,
        accumulates: bool,
    ) -> None:
        """`accumulates`: the gradients of several batches may add up to one optimizer step.

        Raises TargetError where no loss is given and none is safe to assume.
        """
        super().__init__(parts, model, device, enter_phase)
        chosen = loss_choice.choose(parts, model, samples)
        self.loss_name = chosen.name
        self.precision = parts.precision
        self.inferred += chosen.inferred
        self._chosen_loss = chosen.loss
        self._arithmetic = arithmetic
        self._accumulates = accumulates
        self._last_loss: torch.Tensor | None = None

    def step(self, batch: Any) -> torch.Tensor:
        # As in a user's loop, gradients live until the next step, through an evaluation. So does the loss:
        # its graph lies between the tensors on the heap, and decides which other tensors fit there.
        if not self._parts.zero_grad_after_forward:
            self._zero_gradients()
        loss = self._last_loss = self._forward(batch)
        if self._parts.zero_grad_after_forward:
            self._zero_gradients()
        self._backward(loss)
        self._enter("step")
        self._arithmetic.step(self.optimizers)
        return loss.detach()

    def backward(self, batch: Any) -> torch.Tensor:
        for _ in range(MOST_SKIPS):
            loss = self._forward(batch)
            self._backward(loss)
            if self._arithmetic.unscale(self.optimizers):
                return loss
            self.model.zero_grad(set_to_none=True)
        raise gradient_not_finite()

    def evaluation_loss(self, batch: Any) -> torch.Tensor:
        step = self._parts.evaluation_step
        return self._loss(batch) if step is None else scalar(step(self.model, batch))

    def module_of_step(self) -> nn.Module:
        return BatchLoss(self.model, self._loss)

    def call_of_step(self) -> Callable[..., Any]:
        return self._loss

    def _loss(self, batch: Any) -> torch.Tensor:
        return self._chosen_loss(self.model, batch)

    def _forward(self, batch: Any) -> torch.Tensor:
        with self._arithmetic.autocast():
            loss: torch.Tensor = self._replica(batch)
        return loss

    def _backward(self, loss: torch.Tensor) -> None:
        self._enter("backward")
        self._arithmetic.backward(loss)

    def _zero_gradients(self) -> None:
        # With accumulation, the second batch of a step adds to gradients that exist already.
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=not self._accumulates)

"""The loop of a loss: forward, backward, optimizer step.

It trains plain models, models with a `training_step`, and LightningModules with automatic optimization. They
differ in the loss alone, and in when gradients are zeroed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autobatch.records.errors import TargetError
from autobatch.workload import loss_choice
from autobatch.workload.loss import scalar
from autobatch.workload.parts import Parts
from autobatch.workload.precision import MOST_SKIPS, Arithmetic, gradient_not_finite
from autobatch.workload.process_group import BatchLoss
from autobatch.workload.samples import Samples
from autobatch.workload.training_loop import EnterPhase, TrainingLoop
from autobatch.workload.user_errors import describe_error

# The message of torch for a graph that was freed by another backward pass.
_SECOND_BACKWARD = "backward through the graph a second time"


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

    def make_optimizers(self) -> None:
        super().make_optimizers()
        for optimizer in self.optimizers:
            _check_step(optimizer)

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
        try:
            self._arithmetic.step(self.optimizers)
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            # SAM has a default for its closure, and refuses it.
            if "closure" not in str(error):
                raise
            raise _needs_closure(self.optimizers[0], describe_error(error)) from error
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
        try:
            self._arithmetic.backward(loss)
        except RuntimeError as error:
            if loss.requires_grad and _SECOND_BACKWARD not in str(error):
                raise
            raise _no_graph(loss, error) from error

    def _zero_gradients(self) -> None:
        # With accumulation, the second batch of a step adds to gradients that exist already.
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=not self._accumulates)


def _check_step(optimizer: torch.optim.Optimizer) -> None:
    """Raises TargetError for an optimizer, such as LBFGS, whose step computes the loss several times."""
    # torch wraps the `step` of each optimizer's class.
    parameters = [*inspect.signature(inspect.unwrap(type(optimizer).step)).parameters.values()]
    if len(parameters) < 2 or parameters[1].default is not inspect.Parameter.empty:
        return
    if parameters[1].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return
    name = type(optimizer).__name__
    raise _needs_closure(optimizer, f"`{name}.step({parameters[1].name})` has no default for it")


def _needs_closure(optimizer: torch.optim.Optimizer, fact: str) -> TargetError:
    return TargetError(
        f"{type(optimizer).__name__} needs a closure, which computes the loss anew",
        code="needs_closure",
        facts=(fact,),
        hint="add `def step(model, optimizer, batch)`, which calls `optimizer.step(closure)`",
    )


def _no_graph(loss: torch.Tensor, error: RuntimeError) -> TargetError:
    """The error for a loss that can't be derived: its step went back through it already, or detached it."""
    done = loss.requires_grad
    return TargetError(
        f"the loss {'went through `backward` already' if done else 'has no graph to go back through'}",
        code="own_backward" if done else "step_fails",
        facts=(describe_error(error),),
        hint="return the loss before `backward`, or name a step that calls `backward` and `optimizer.step()` "
        "by itself `step(model, optimizer, batch)`",
    )

"""The protocol of a training loop: how a batch on its device becomes an optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autobatch.records.errors import TargetError
from autobatch.records.limits import Precision
from autobatch.records.workload import StepCount
from autobatch.workload import optimizers
from autobatch.workload.model_size import count_parameters
from autobatch.workload.parts import Parts

EnterPhase = Callable[[str], None]


class TrainingLoop(ABC):
    """A model on its device, its optimizers, and the step that training repeats.

    `inferred` lists what the target left out. `why_no_gradient` says why neither gradient nor loss can be
    had, and is empty where they can. `precision` is None where the loop sets it by itself. `enter_phase` is
    called at the start of each phase of a step.
    """

    loss_name: str
    precision: Precision | None = None
    why_no_gradient = ""
    # The batch size, the step counts and the slow imports that the framework of the loop brings along.
    batch_size: int | None = None
    schedule: tuple[StepCount, ...] = ()
    frameworks: tuple[str, ...] = ()

    def __init__(self, parts: Parts, model: nn.Module, device: str, enter_phase: EnterPhase) -> None:
        self._parts = parts
        self._device = device
        self._enter = enter_phase
        self.inferred: list[str] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.use_model(model)

    @abstractmethod
    def step(self, batch: Any) -> torch.Tensor | None:
        """Makes one full training step; returns the loss, detached, or None where the loop hides it."""

    @abstractmethod
    def backward(self, batch: Any) -> torch.Tensor:
        """Leaves the gradient of a batch's loss in the parameters; returns the loss.

        Raises TargetError where it is hidden.
        """

    @abstractmethod
    def evaluation_loss(self, batch: Any) -> torch.Tensor:
        """The loss of a batch in evaluation mode. Raises TargetError where the loop hides it."""

    @abstractmethod
    def module_of_step(self) -> nn.Module:
        """The module that DistributedDataParallel wraps."""

    @abstractmethod
    def call_of_step(self) -> Callable[..., Any]:
        """The call that a step makes on a single rank."""

    @property
    def parameters(self) -> int:
        """The number of the model's parameters."""
        return count_parameters(self.model)

    @property
    def drifting(self) -> list[torch.Tensor]:
        """Tensors that a forward pass changes in the model, buffers excepted."""
        return []

    def make_optimizers(self) -> None:
        """Makes the optimizers for the model as it is. Raises TargetError where none can be made."""
        self.optimizers, inferred = optimizers.make(self._parts, self.model, self._device)
        self.inferred += inferred

    def use_model(self, model: nn.Module) -> None:
        """Trains this module from here on, such as the module that `parallelize` returns."""
        self.model = model
        self._replica = self.call_of_step()

    def replicate(self, replicated: Callable[[nn.Module], Callable[..., Any]]) -> None:
        """Steps through a wrapper around the module, such as DistributedDataParallel, from here on."""
        self._replica = replicated(self.module_of_step())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which steps go past the wrapper, so that ranks exchange nothing."""
        replica, self._replica = self._replica, self.call_of_step()
        try:
            yield
        finally:
            self._replica = replica

    def no_gradient(self) -> TargetError:
        """The error for the gradient or the loss of a loop that hides them."""
        return TargetError(self.why_no_gradient, code="no_gradient")

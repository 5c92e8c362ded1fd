"""The loop of a compiled Keras model, which `fit` runs for each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autobatch.workload.keras.compiled import BATCH_SIZE, CompiledModel
from autobatch.workload.parts import Parts
from autobatch.workload.training_loop import EnterPhase, TrainingLoop


class KerasLoop(TrainingLoop):
    """Trains by the compiled optimizer, loss and metrics, in the precision of the model's policy."""

    batch_size = BATCH_SIZE
    frameworks = ("keras",)

    def __init__(
        self, parts: Parts, model: nn.Module, device: str, enter_phase: EnterPhase, compiled: CompiledModel
    ) -> None:
        self._compiled = compiled
        super().__init__(parts, model, device, enter_phase)
        self.loss_name = compiled.loss_name
        self.schedule = compiled.schedule
        if compiled.has_train_step:
            self.why_no_gradient = "the model's own `train_step` keeps its gradients to itself"
        if parts.batch_size is None:
            self.inferred.append(f"current batch size: {BATCH_SIZE}, the default of Keras' `fit`")

    @property
    def parameters(self) -> int:
        return self._compiled.parameters

    @property
    def drifting(self) -> list[torch.Tensor]:
        return self._compiled.drifting

    def make_optimizers(self) -> None:
        self.optimizers = [self._compiled.optimizer]

    def step(self, batch: Any) -> torch.Tensor | None:
        # Keras makes the step as a whole: its phases can't be told apart.
        self._enter("step")
        return self._compiled.step(batch)

    def backward(self, batch: Any) -> torch.Tensor:
        return self._compiled.backward(batch)

    def evaluation_loss(self, batch: Any) -> torch.Tensor:
        return self._compiled.loss(batch)

    def module_of_step(self) -> nn.Module:
        return self.model

    def call_of_step(self) -> Callable[..., Any]:
        return self._compiled.loss

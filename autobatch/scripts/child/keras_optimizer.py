"""An optimizer of Keras in the form of one of torch, as far as a Watch needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class KerasOptimizer:
    """Its `param_groups` is one group, with the learning rate of the current step. Its state is a list."""

    def __init__(self, keras: Any, variables: list[Any]) -> None:
        self.keras = keras
        self.name = type(keras).__name__
        group: dict[str, Any] = {"params": [variable.value for variable in variables], "lr": self._rate}
        if hasattr(keras, "beta_2"):
            group["betas"] = (keras.beta_1, keras.beta_2)
        elif getattr(keras, "momentum", 0):
            group["momentum"] = keras.momentum
        self.param_groups = [group]

    @property
    def _rate(self) -> float:
        return float(self.keras.learning_rate)

    def refresh(self) -> None:
        """Take the learning rate of the step to come."""
        self.param_groups[0]["lr"] = self._rate

    @contextmanager
    def rate_applied(self) -> Iterator[None]:
        """Within the block, Keras steps with the rate of the group; a schedule goes on after it."""
        rate, before = self.param_groups[0]["lr"], self.keras._learning_rate
        if rate != self._rate:
            self.keras._learning_rate = lambda: rate
        try:
            yield
        finally:
            self.keras._learning_rate = before

    def state_dict(self) -> dict[str, Any]:
        return {"state": [variable.value.detach() for variable in self.keras.variables], "param_groups": []}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        with torch.no_grad():
            for variable, value in zip(self.keras.variables, kept["state"]):  # noqa: B905 equal lengths
                variable.value.copy_(value)

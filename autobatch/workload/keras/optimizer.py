"""A compiled Keras optimizer in the form of a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch

from autobatch.records.errors import TargetError


class FollowedOptimizer(torch.optim.Optimizer):
    """The parameters, learning rates and state of a Keras optimizer, which itself makes the steps.

    Its `apply` goes through `step` here, so that the hooks of torch's optimizers are called. `kind` is the
    class of the Keras optimizer. For a learning-rate schedule, the parameter group holds a factor as
    `initial_lr`: the rate changes at each step.
    """

    def __init__(self, model: Any) -> None:
        """Builds the Keras optimizer, as `fit` does. Raises TargetError where it can't be followed."""
        self._model = model
        self._keras = model.optimizer
        inner = getattr(self._keras, "inner_optimizer", self._keras)
        self.kind = type(inner).__name__
        _refuse(inner, self.kind)
        variables = model.trainable_variables
        if not self._keras.built:
            self._keras.build(variables)
        self._schedule = _schedule_of(inner)
        super().__init__([variable.value for variable in variables], _defaults(inner, self._schedule))
        self._carried = self._rate
        self._apply = self._keras.apply
        self._keras.apply = self.step

    def step(self, *gradients: Any, **named: Any) -> Any:
        """Calls Keras' `apply` with its arguments. Its variables are the state of the first parameter."""
        made = self._apply(*gradients, **named)
        if not self.state:
            self.state[self.param_groups[0]["params"][0]] = self.state_dict()
        return made

    def replace_values(self, replacement: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Puts another tensor in the place of each weight of the model and of the optimizer's variables.

        Single numbers stay: Keras reads some of them.
        """
        for variable in (*self._model.weights, *self._keras.variables):
            if variable.shape:
                variable._value = replacement(variable.value)

    @property
    def _rate(self) -> float:
        group = self.param_groups[0]
        return float(group["initial_lr" if self._schedule is not None else "lr"])

    @torch.no_grad()
    def carry_rates(self) -> None:
        """Gives the learning rate of the parameter group to Keras, if it has changed."""
        if self._rate != self._carried:
            self._carried = self._rate
            schedule = self._schedule
            self._keras.learning_rate = self._rate if schedule is None else _scaled(schedule, self._rate)

    def state_dict(self) -> dict[str, Any]:
        """The rate of the parameter group and the optimizer's variables, which are not copied."""
        return {
            "rate": self._rate,
            "variables": [variable.value.detach() for variable in self._keras.variables],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts back a `state_dict`, and resets the model's metrics."""
        self.param_groups[0]["initial_lr" if self._schedule is not None else "lr"] = state_dict["rate"]
        self.carry_rates()
        for variable, value in zip(self._keras.variables, state_dict["variables"], strict=True):
            variable.value.copy_(value)
        self._model.reset_metrics()

    @torch.no_grad()
    def move_to(self, device: str) -> None:
        """Moves the optimizer's variables to the model's device."""
        for variable in self._keras.variables:
            variable.value.data = variable.value.data.to(device)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss as the optimizer takes it, which is scaled up in half precision."""
        return torch.as_tensor(self._keras.scale_loss(loss))


def _refuse(optimizer: Any, kind: str) -> None:
    if not hasattr(optimizer, "learning_rate"):
        raise TargetError(
            f"the model is compiled with a {kind}, which has no learning rate",
            code="keras_optimizer",
            hint="compile the model with one optimizer to find its batch size",
        )
    steps = optimizer.gradient_accumulation_steps
    if steps:
        raise TargetError(
            f"the compiled {kind} accumulates the gradients of {steps} batches",
            code="keras_accumulation",
            hint="compile it without `gradient_accumulation_steps`: the size that is found is then that of a "
            f"whole step of the optimizer, of which `fit` takes 1/{steps}",
        )


def _schedule_of(optimizer: Any) -> Callable[..., Any] | None:
    """The schedule of the learning rate; None for a number."""
    rate = optimizer._learning_rate
    return rate if callable(rate) and not hasattr(rate, "assign") else None


def _defaults(optimizer: Any, schedule: Callable[..., Any] | None) -> dict[str, Any]:
    """The entries of the parameter group, by torch's names."""
    defaults: dict[str, Any] = {"initial_lr": 1.0} if schedule is not None else {"lr": _rate_of(optimizer)}
    momentum = getattr(optimizer, "momentum", None)
    if isinstance(momentum, (int, float)):
        defaults["momentum"] = float(momentum)
    betas = [getattr(optimizer, name, None) for name in ("beta_1", "beta_2")]
    if all(isinstance(beta, (int, float)) for beta in betas):
        defaults["betas"] = tuple(betas)
    return defaults


def _rate_of(optimizer: Any) -> float:
    """0.001, not 0.0010000000474974513: Keras keeps the rate in single precision."""
    rate = optimizer.learning_rate
    return float(str(numpy.float32(float(getattr(rate, "value", rate)))))


def _scaled(schedule: Callable[..., Any], factor: float) -> Any:
    """The same schedule with all its rates multiplied."""
    import keras

    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return lambda: schedule() * factor

    class Scaled(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            return schedule(step) * factor

        def get_config(self) -> dict[str, Any]:
            return {"schedule": schedule, "factor": factor}

    return Scaled()

"""The optimizers of a training: made from its parts, read, and changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from autobatch.devices.torch_internals import tree_leaves
from autobatch.records.errors import TargetError
from autobatch.records.workload import Decay
from autobatch.workload.parts import Parts

# By the names of formatting.OPTIMIZERS. A plan asks for their memory, so their settings don't matter.
NAMED: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=1e-3),
    "sgd-momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adafactor": torch.optim.Adafactor,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamw-fused": partial(torch.optim.AdamW, fused=True),
}
_DEFAULT_LEARNING_RATE = 1e-3
# Schedulers keep the rate that they started from beside the current one.
_RATES = ("lr", "initial_lr")


def make(parts: Parts, model: nn.Module, device: str) -> tuple[list[torch.optim.Optimizer], tuple[str, ...]]:
    """(optimizers, notes on what was inferred) for the parameters of a model on its device.

    Raises TargetError for optimizers that can't be used, and for a model that has nothing to train.
    """
    if parts.make_optimizers is not None:
        return as_optimizers(parts.make_optimizers(model), model, device), ()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if parts.optimizer is not None:
        made = parts.optimizer
        if callable(made) and not isinstance(made, torch.optim.Optimizer):
            made = made(trained)
        return as_optimizers(made, model, device), ()
    if not trained:
        raise TargetError(
            f"{type(model).__name__} has no parameter to train",
            code="nothing_to_train",
            hint="give a model with parameters that require gradients",
        )
    note = f"optimizer: AdamW, learning rate {_DEFAULT_LEARNING_RATE:g}"
    return [torch.optim.AdamW(trained, lr=_DEFAULT_LEARNING_RATE)], (note,)


def as_optimizers(made: Any, model: nn.Module, device: str) -> list[torch.optim.Optimizer]:
    """The optimizers in `made` (an optimizer, a sequence or a dict), with their state on the device.

    Raises TargetError for other objects, and for an optimizer that trains nothing of the model.
    """
    optimizers: Sequence[Any] = list(made.values()) if isinstance(made, Mapping) else _listed(made)
    if not optimizers:
        raise TargetError(
            "there is no optimizer",
            code="bad_optimizer",
            facts=(f"it is {made!r}",),
            hint="return one, or several",
        )
    parameters = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TargetError(
                f"the optimizer is a {type(optimizer).__name__}",
                code="bad_optimizer",
                hint="give a torch optimizer, or `def make_optimizer(params): return SGD(params, lr=0.1)`",
            )
        if not any(id(p) in parameters for group in optimizer.param_groups for p in group["params"]):
            raise TargetError(
                f"the {type(optimizer).__name__} trains none of the model's parameters",
                code="bad_optimizer",
                facts=("an optimizer made at import belongs to the model made at import",),
                hint="use `def make_optimizer(params): ...`, which gets the parameters of the model tried",
            )
        if optimizer.state and device != "cpu":
            # load_state_dict moves the state to the device of its parameters.
            optimizer.load_state_dict(optimizer.state_dict())
    return list(optimizers)


def names(optimizers: Sequence[torch.optim.Optimizer]) -> str:
    """The classes of the optimizers, such as `SGD and Adam`."""
    # A Keras optimizer is wrapped; `kind` is its class.
    return " and ".join(getattr(optimizer, "kind", type(optimizer).__name__) for optimizer in optimizers)


def learning_rate(optimizers: Sequence[torch.optim.Optimizer]) -> float | None:
    """The learning rate of all parameter groups; None where they differ."""
    rates = {float(group["lr"]) for group in _groups(optimizers) if "lr" in group}
    return rates.pop() if len(rates) == 1 else None


def scale_learning_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Multiplies the learning rate of every parameter group."""
    for group in _groups(optimizers):
        for name in _RATES:
            if name in group:
                group[name] = group[name] * factor


def kept_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """The number of tensors in the states of optimizers, those of a history such as LBFGS's included."""
    states = [dict(optimizer.state) for optimizer in optimizers]
    return sum(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(states))


def decays(optimizers: Sequence[torch.optim.Optimizer]) -> tuple[Decay, ...]:
    """The momentum or second beta of the parameter groups, where they have the same."""
    agreed = {}
    for name, read in (("momentum", lambda group: group.get("momentum")), ("beta2", _beta2)):
        values = {read(group) for group in _groups(optimizers)} - {None, 0}
        if len(values) == 1:
            agreed[name] = float(values.pop())
    return tuple(Decay(name=name, value=value) for name, value in agreed.items())


def _beta2(group: dict[str, Any]) -> Any:
    betas = group.get("betas")
    return betas[1] if isinstance(betas, (tuple, list)) and len(betas) == 2 else None


def _groups(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def _listed(made: Any) -> list[Any]:
    return (
        list(made) if isinstance(made, Iterable) and not isinstance(made, torch.optim.Optimizer) else [made]
    )

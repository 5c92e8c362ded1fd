"""Chooses the loss of a batch: as the target gives it, or inferred where that is safe."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autobatch.records.errors import TargetError
from autobatch.workload import compilation
from autobatch.workload.batches import is_sequence_of_parts, split_batch, to_device
from autobatch.workload.loss import infer, loss_of_output, no_target, scalar, tensor_of, widened
from autobatch.workload.parts import Parts
from autobatch.workload.samples import Samples


@dataclass(frozen=True, slots=True)
class ChosenLoss:
    """`loss` of a model and a batch on its device, a tensor of one number.

    `inferred`: notes on what the target left out.
    """

    name: str
    loss: Callable[[nn.Module, Any], torch.Tensor]
    inferred: tuple[str, ...] = ()


def choose(parts: Parts, model: nn.Module, samples: Samples) -> ChosenLoss:
    """The loss that `parts` has or implies. Raises TargetError where none is safe to assume."""
    if parts.training_step is not None:
        step = parts.training_step
        return ChosenLoss("your `training_step`", lambda model, batch: scalar(step(model, batch)))
    _require_forward(compilation.inner(model))
    example = samples.example()
    if parts.loss_fn is None and _takes_labels(model, example):
        return ChosenLoss("the model's own", lambda model, batch: scalar(loss_of_output(model(**batch))))
    inputs, target = split_batch(example)
    if samples.synthetic and target is None:
        return ChosenLoss(
            "mean square of the output",
            lambda model, batch: widened(tensor_of(_call(model, batch))).square().mean(),
            ("loss: mean square of the output, since the inputs are synthetic",),
        )
    if target is None:
        raise no_target(inputs)
    if parts.loss_fn is not None:
        given = parts.loss_fn
        return ChosenLoss(getattr(given, "__name__", type(given).__name__), _of_output(following(given)))
    name, loss_fn, reason = infer(target)
    return ChosenLoss(name, _of_output(loss_fn), (f"loss: {name}, since {reason}",))


def move_loss(loss_fn: Any, device: str) -> None:
    """Moves the weights of a loss that is a module, such as those of classes, to the device."""
    if isinstance(loss_fn, nn.Module):
        loss_fn.to(device)


def following(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same loss; the tensors in a partial function follow the output to its device."""
    if not isinstance(loss_fn, partial):
        return loss_fn

    def loss(output: Any, target: Any) -> Any:
        arguments, keywords = to_device((loss_fn.args, loss_fn.keywords), output.device)
        return loss_fn.func(*arguments, output, target, **keywords)

    return loss


def _require_forward(model: nn.Module) -> None:
    """Raises TargetError for a model that can't be called, such as the holder of several networks."""
    # The class of a scripted module has no `forward` of its own to ask for.
    if getattr(type(model), "forward", None) is not nn.Module.forward or "forward" in vars(model):
        return
    call = "model.training_step(batch, 0)" if hasattr(model, "training_step") else "..."
    raise TargetError(
        f"{type(model).__name__} has no `forward`",
        code="no_forward",
        hint=f"add `def training_step(model, batch): return {call}` to the model file, or pass it to `find`",
    )


def _of_output(loss_fn: Callable[..., Any]) -> Callable[[nn.Module, Any], torch.Tensor]:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, target = split_batch(batch)
        return scalar(loss_fn(tensor_of(_call(model, inputs)), target))

    return loss


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if is_sequence_of_parts(inputs):
        return model(*inputs)
    return model(inputs)


def _takes_labels(model: nn.Module, batch: Any) -> bool:
    """True for Hugging Face's convention: a dict with `labels` goes in, an output with `.loss` comes out."""
    return (
        isinstance(batch, Mapping)
        and "labels" in batch
        and "labels" in inspect.signature(compilation.inner(model).forward).parameters
    )

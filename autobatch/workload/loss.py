"""Losses: inferred from the target of a batch, or returned by the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.nn import functional as F

from autobatch.records.errors import TargetError
from autobatch.workload.batches import describe_batch

Loss = Callable[[Any, Any], Any]


class NoLossError(TargetError):
    """A batch has no loss. Lightning's `training_step` may return None to leave a batch out."""


def infer(target: Any) -> tuple[str, Loss, str]:
    """(name, loss, reason) for a kind of target. Raises TargetError where none is safe to assume."""
    if not isinstance(target, torch.Tensor):
        raise TargetError(
            f"no loss can be inferred for a target that is a {type(target).__name__}",
            code="no_loss",
            hint="add `def loss_fn(output, target): ...` to the model file, or pass `loss_fn=`. For a model "
            "that makes its loss, add `def training_step(model, batch): return loss`",
        )
    if target.is_floating_point():
        return "mean squared error", _mean_squared_error, "the target is floating point"
    if target.dtype == torch.bool:
        return "binary cross-entropy", _binary_cross_entropy, "the target is boolean"
    return "cross-entropy", _cross_entropy, "the target is an integer"


def loss_of_output(output: Any) -> Any:
    """The loss that a model returned with its output, or first in a tuple. Raises TargetError without one."""
    if isinstance(output, (tuple, list)) and output and _is_number(output[0]):
        return output[0]
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", output)
    if loss is None:
        raise TargetError(
            "the model was given `labels` but returned no loss",
            code="no_loss",
            facts=(f"it returned {describe_batch(output)}",),
            hint="add `def loss_fn(output, target): ...` to the model file, or pass `loss_fn=`",
        )
    return loss


def tensor_of(output: Any) -> Any:
    """The tensor that a loss is computed on: the output itself, or its `logits`."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if logits is None else logits


def widened(output: Any) -> Any:
    """The tensor, in fp32 if it was in half precision, in which squares overflow or lose their digits."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def scalar(loss: Any) -> torch.Tensor:
    """The loss, which has to be a tensor of one number. Raises NoLossError for None, else TargetError."""
    if _is_number(loss):
        return cast(torch.Tensor, loss)
    kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
    raise (NoLossError if loss is None else TargetError)(
        "the loss is None, not one number" if loss is None else "the loss is not one number",
        code="bad_loss",
        facts=(f"it is {kind}",),
        hint=_hint_for(loss),
    )


def _is_number(loss: Any) -> bool:
    return isinstance(loss, torch.Tensor) and loss.numel() == 1


def _hint_for(loss: Any) -> str:
    """The way from this object to a loss."""
    if loss is None:
        return "return the loss; where small batches have none, leave such sizes out by `--min-batch`"
    if isinstance(loss, torch.Tensor):
        return "return the mean over the batch"
    if isinstance(loss, (int, float)):
        return "return the tensor, from which autobatch calls `backward`, not its `.item()`"
    if isinstance(loss, Mapping):
        return "return the sum of its values as the loss"
    if isinstance(loss, (tuple, list)):
        return "return the loss alone, without the other outputs"
    return "return a tensor of one number"


def no_target(inputs: Any) -> TargetError:
    """The error for a batch from which no loss can be computed."""
    return TargetError(
        "a batch has no target, so no loss can be inferred",
        code="no_loss",
        facts=(f"the batch: {describe_batch(inputs)}",),
        hint="let each sample be (input, target), or add `def training_step(model, batch): return loss`",
    )


def _cross_entropy(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the classes in dimension 1, or in the last one for sequences (N, T, C)."""
    output = _tensor_output(output)
    if output.dim() == target.dim() + 1 and output.shape[:-1] == target.shape:
        return F.cross_entropy(output.flatten(0, -2), target.flatten().long())
    if output.dim() == 2 and target.shape == (len(output), 1):
        return F.cross_entropy(output, target.squeeze(1).long())
    if output.dim() < 2 or output.shape[0] != target.shape[0] or output.shape[2:] != target.shape[1:]:
        raise _mismatch("cross-entropy", output, target)
    return F.cross_entropy(output, target.long())


def _mean_squared_error(output: Any, target: torch.Tensor) -> torch.Tensor:
    output, target = _same_shape("mean squared error", output, target)
    output = widened(output)
    return F.mse_loss(output, target.to(output.dtype))


def _binary_cross_entropy(output: Any, target: torch.Tensor) -> torch.Tensor:
    output, target = _same_shape("binary cross-entropy", output, target)
    return F.binary_cross_entropy_with_logits(output, target.to(output.dtype))


def _same_shape(loss: str, output: Any, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and target in the same shape; a last dimension of 1, wrong to broadcast, is dropped."""
    output = _tensor_output(output)
    if output.shape == (*target.shape, 1):
        output = output.squeeze(-1)
    if target.shape == (*output.shape, 1):
        target = target.squeeze(-1)
    if output.shape != target.shape:
        raise _mismatch(loss, output, target)
    return output, target


def _tensor_output(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    raise TargetError(
        f"the model returned a {type(output).__name__}, so no loss can be inferred",
        code="no_loss",
        hint="add `def loss_fn(output, target): ...` to the model file, or pass `loss_fn=`",
    )


def _mismatch(loss: str, output: torch.Tensor, target: torch.Tensor) -> TargetError:
    return TargetError(
        f"{loss} was inferred, but output and target don't go together",
        code="bad_loss",
        facts=(
            f"output: shape {tuple(output.shape)}, {output.dtype}",
            f"target: shape {tuple(target.shape)}, {target.dtype}",
        ),
        hint="add `def loss_fn(output, target): ...` to the model file, or pass `loss_fn=`",
    )

"""What is trained: one model, one optimizer, one training step and one evaluation on a device.

What a target leaves out is inferred where that is safe (cross-entropy for integer targets, the mean
squared error for floats, AdamW), and listed in `inferred`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autobatch.errors import TargetError
from autobatch.records import Workload
from autobatch.samples import Samples, StreamEndedError, describe_batch
from autobatch.targets import Parts

_TARGET_KEYS = ("labels", "label", "target", "targets", "y")
_DEFAULT_LEARNING_RATE = 1e-3


class Trainer:
    """A model on a device with its optimizer, and the steps that training repeats.

    `phase` says what is going on at any time; `on_phase` hears of each change.
    """

    def __init__(
        self,
        parts: Parts,
        samples: Samples,
        val_samples: Samples | None,
        device: str,
        on_phase: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._parts = parts
        self._samples = samples
        self._val_samples = val_samples or samples
        self._device = device
        self._inferred: list[str] = list(samples.notes)
        self.on_phase = on_phase
        self.phase = ""
        self.optimizer_steps = 0
        self._enter("build")
        self.model = parts.make_model().to(device)
        self.model.train()
        self._loss_name, self._loss = self._choose_loss()
        self.optimizers = self._make_optimizers()
        for optimizer in self.optimizers:
            optimizer.register_step_post_hook(self._count_step)

    @property
    def dataset_size(self) -> int | None:
        return self._samples.size

    def describe(self) -> Workload:
        """What was found and what was filled in."""
        return Workload(
            target=self._parts.name,
            model=type(self.model).__name__,
            parameters=sum(p.numel() for p in self.model.parameters() if not _is_lazy(p)),
            loss=self._loss_name,
            optimizer=" and ".join(type(optimizer).__name__ for optimizer in self.optimizers),
            dataset=self._samples.kind,
            dataset_size=self._samples.size,
            batch_size=self._parts.batch_size,
            synthetic=self._samples.synthetic,
            inferred=tuple(self._inferred),
        )

    def load(self, batch_size: int, seed: int) -> Any:
        """A batch of exactly `batch_size` samples in main memory."""
        self._enter("load")
        return self._samples.batch(batch_size, seed)

    def load_validation(self, batch_size: int, seed: int) -> Any:
        """A batch to evaluate: of the validation data where it is large enough, else of the training data."""
        self._enter("load")
        size = self._val_samples.size
        if size is None or size >= batch_size:
            with contextlib.suppress(StreamEndedError):
                return self._val_samples.batch(batch_size, seed)
        return self._samples.batch(batch_size, seed)

    def step(self, batch: Any) -> torch.Tensor | None:
        """One full training step; returns the loss, or None where the user's loop keeps it to itself."""
        self._enter("forward")
        batch = to_device(batch, self._device)
        if self._parts.step is not None:
            loss = self._parts.step(self.model, self._optimizer_argument(), batch)
            return loss.detach() if isinstance(loss, torch.Tensor) else None
        loss = self._loss(batch)
        self._enter("backward")
        loss.backward()
        self._enter("step")
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def evaluate(self, batch: Any) -> None:
        """One evaluation pass without gradients; a loop of the user's own (`step`) has none."""
        if self._parts.step is not None:
            return
        self._enter("evaluation")
        self.model.eval()
        try:
            with torch.no_grad():
                self._loss(to_device(batch, self._device))
        finally:
            self.model.train()

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.on_phase(phase)

    def _count_step(self, *_: Any) -> None:
        self.optimizer_steps += 1

    def _optimizer_argument(self) -> Any:
        return self.optimizers if len(self.optimizers) > 1 else self.optimizers[0]

    def _choose_loss(self) -> tuple[str, Callable[[Any], torch.Tensor]]:
        parts = self._parts
        if parts.step is not None:
            return "your `step`", lambda batch: torch.zeros(())
        if parts.training_step is not None:
            own_step = parts.training_step
            return "your `training_step`", lambda batch: _scalar(own_step(self.model, batch))
        example = self._samples.batch(1, 0)
        if parts.loss_fn is None and _model_takes_labels(self.model, example):
            return "the model's own", lambda batch: _scalar(_own_loss(self.model(**batch)))
        inputs, target = split_batch(example)
        if self._samples.synthetic and target is None:
            self._inferred.append("loss: mean square of the output, since the inputs are synthetic")
            return (
                "mean square of the output",
                lambda batch: _output(_call(self.model, batch)).square().mean(),
            )
        if target is None:
            raise _no_target(inputs)
        name, loss_fn = _given_loss(parts.loss_fn) or self._infer_loss(target)
        return name, lambda batch: _scalar(self._apply(loss_fn, batch))

    def _apply(self, loss_fn: Callable[..., Any], batch: Any) -> Any:
        inputs, target = split_batch(batch)
        return loss_fn(_output(_call(self.model, inputs)), target)

    def _infer_loss(self, target: Any) -> tuple[str, Callable[..., Any]]:
        if not isinstance(target, torch.Tensor):
            raise TargetError(
                f"no loss can be inferred for a target that is a {type(target).__name__}",
                code="no_loss",
                hint="add `def loss_fn(output, target): ...` to the model file, or pass `loss_fn=`",
            )
        if target.is_floating_point():
            self._inferred.append("loss: mean squared error, since the target is floating point")
            return "mean squared error", _mean_squared_error
        if target.dtype == torch.bool:
            self._inferred.append("loss: binary cross-entropy on logits, since the target is boolean")
            return "binary cross-entropy", _binary_cross_entropy
        self._inferred.append("loss: cross-entropy, since the target is an integer")
        return "cross-entropy", _cross_entropy

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = self._parts
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if parts.make_optimizers is not None:
            return _as_optimizers(parts.make_optimizers(self.model), self.model, self._device)
        if parts.optimizer is not None:
            made = parts.optimizer
            if callable(made) and not isinstance(made, torch.optim.Optimizer):
                made = made(trained)
            return _as_optimizers(made, self.model, self._device)
        if not trained:
            raise TargetError(
                f"{type(self.model).__name__} has no parameter to train",
                code="nothing_to_train",
                hint="give a model with parameters that require gradients",
            )
        self._inferred.append(f"optimizer: AdamW, learning rate {_DEFAULT_LEARNING_RATE:g}")
        return [torch.optim.AdamW(trained, lr=_DEFAULT_LEARNING_RATE)]


def to_device(batch: Any, device: str) -> Any:
    """The same nested batch with its tensors on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(one, device) for one in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(one, device) for one in batch)
    if isinstance(batch, Mapping):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        return moved if type(batch) is dict else _rebuilt(batch, moved)
    return batch.to(device) if hasattr(batch, "to") else batch


def split_batch(batch: Any) -> tuple[Any, Any]:
    """(inputs, target) of a batch; the target is None where there is none."""
    if isinstance(batch, Mapping):
        key = next((key for key in _TARGET_KEYS if key in batch), None)
        rest = {name: value for name, value in batch.items() if name != key}
        return rest, None if key is None else batch[key]
    if isinstance(batch, (list, tuple)) and len(batch) >= 2:
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        return inputs, batch[-1]
    if isinstance(batch, (list, tuple)) and len(batch) == 1:
        return batch[0], None
    return batch, None


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, shared storage counted once."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not _is_lazy(t)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _rebuilt(batch: Mapping[str, Any], moved: dict[str, Any]) -> Any:
    try:
        return type(batch)(moved)  # type: ignore[call-arg]
    except TypeError:
        return moved


def _is_lazy(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (list, tuple)):
        return model(*inputs)
    return model(inputs)


def _model_takes_labels(model: nn.Module, batch: Any) -> bool:
    """True for Hugging Face's convention: a dict with `labels` goes in, an output with `.loss` comes out."""
    return (
        isinstance(batch, Mapping)
        and "labels" in batch
        and "labels" in inspect.signature(model.forward).parameters
    )


def _own_loss(output: Any) -> Any:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", output)
    if loss is None:
        raise TargetError(
            "the model was given `labels` but returned no loss",
            code="no_loss",
            facts=(f"it returned {describe_batch(output)}",),
            hint="add `def loss_fn(output, target): ...` to the model file, or pass `loss_fn=`",
        )
    return loss


def _output(output: Any) -> Any:
    """The tensor that a loss is computed on: the output itself, or its `logits`."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if logits is None else logits


def _scalar(loss: Any) -> torch.Tensor:
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return loss
    found = (
        f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
    )
    raise TargetError(
        "the loss is not one number",
        code="bad_loss",
        facts=(f"it is {found}",),
        hint="return the mean over the batch",
    )


def _given_loss(loss_fn: Callable[..., Any] | None) -> tuple[str, Callable[..., Any]] | None:
    if loss_fn is None:
        return None
    return getattr(loss_fn, "__name__", type(loss_fn).__name__), loss_fn


def _no_target(inputs: Any) -> TargetError:
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
    return F.mse_loss(output, target.to(output.dtype))


def _binary_cross_entropy(output: Any, target: torch.Tensor) -> torch.Tensor:
    output, target = _same_shape("binary cross-entropy", output, target)
    return F.binary_cross_entropy_with_logits(output, target.to(output.dtype))


def _same_shape(loss: str, output: Any, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with one shape; a lone last dimension of 1 is dropped, since broadcasting it would be wrong."""
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


def _as_optimizers(made: Any, model: nn.Module, device: str) -> list[torch.optim.Optimizer]:
    found: Sequence[Any] = list(made.values()) if isinstance(made, Mapping) else _listed(made)
    own = {id(p) for p in model.parameters()}
    for optimizer in found:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TargetError(
                f"the optimizer is a {type(optimizer).__name__}",
                code="bad_optimizer",
                hint="give a torch optimizer, or `def make_optimizer(params): return SGD(params, lr=0.1)`",
            )
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise TargetError(
                f"the {type(optimizer).__name__} trains none of the model's parameters",
                code="bad_optimizer",
                facts=("an optimizer made at import belongs to the model made at import",),
                hint="use `def make_optimizer(params): ...`, which gets the parameters of the model tried",
            )
        if optimizer.state and device != "cpu":
            # load_state_dict moves the state to the device of its parameters.
            optimizer.load_state_dict(optimizer.state_dict())
    return list(found)


def _listed(made: Any) -> list[Any]:
    return (
        list(made) if isinstance(made, Iterable) and not isinstance(made, torch.optim.Optimizer) else [made]
    )

"""What is trained: one model, one optimizer, one training step and one evaluation on a device.

What a target leaves out is inferred where that is safe (cross-entropy for integer targets, the mean
squared error for floats, AdamW), and listed in `inferred`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from autobatch import optimizers
from autobatch.batches import split_batch, to_device
from autobatch.errors import TargetError
from autobatch.loaders import LoaderSettings
from autobatch.losses import infer, no_target, own_loss, scalar, tensor_of
from autobatch.records import SampleSizes, Workload
from autobatch.samples import Samples, StreamedSamples, StreamEndedError
from autobatch.targets import Parts

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
        self._val_samples = val_samples
        self._device = device
        self._inferred: list[str] = list(samples.notes)
        self.on_phase = on_phase
        self.phase = ""
        self.optimizer_steps = 0
        self._last_loss: torch.Tensor | None = None
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

    @property
    def validation_size(self) -> int | None:
        """Samples of the validation set; None where there is none whose rows can be picked."""
        held = self._val_samples
        return None if held is None or isinstance(held, StreamedSamples) else held.size

    @property
    def why_no_check(self) -> str:
        """Why neither the gradient's noise nor a loss can be measured; empty where they can."""
        if self._parts.step is not None:
            return "your `step` keeps its gradients to itself"
        if isinstance(self._samples, StreamedSamples):
            return "the data set is a stream, which gives its samples once"
        return ""

    @property
    def sample_sizes(self) -> SampleSizes | None:
        """How large the training samples are, of those that were looked at so far."""
        return self._samples.sizes

    @property
    def keeps_samples(self) -> bool:
        """True where batches come from samples that were read before, and so in no time."""
        return self._samples.kept

    def loader(self, batch_size: int, workers: int, seed: int) -> DataLoader[Any] | None:
        """The user's DataLoader at another size; None where the samples can't be read once more."""
        settings = self._parts.loader or LoaderSettings()
        return self._samples.loader(settings, batch_size, workers, seed)

    def materialize(self) -> None:
        """Gives lazy modules their weights, which they get from a first batch."""
        if any(_is_lazy(p) for p in self.model.parameters()):
            self.evaluate(self.load(1, 0))

    def describe(self) -> Workload:
        """What was found and what was filled in."""
        return Workload(
            target=self._parts.name,
            model=type(self.model).__name__,
            parameters=sum(p.numel() for p in self.model.parameters() if not _is_lazy(p)),
            loss=self._loss_name,
            optimizer=" and ".join(type(optimizer).__name__ for optimizer in self.optimizers),
            learning_rate=optimizers.learning_rate(self.optimizers),
            decays=optimizers.decays(self.optimizers),
            dataset=self._samples.kind,
            dataset_size=self._samples.size,
            batch_size=self._parts.batch_size,
            epochs=self._parts.epochs,
            schedule=self._parts.schedule,
            synthetic=self._samples.synthetic,
            sizes=self._samples.sizes,
            workers=None if self._parts.loader is None else self._parts.loader.workers,
            inferred=tuple(self._inferred),
        )

    def load(self, batch_size: int, seed: int) -> Any:
        """A batch of exactly `batch_size` samples in main memory."""
        self._enter("load")
        return self._samples.batch(batch_size, seed)

    def load_largest(self, batch_size: int, seed: int) -> Any:
        """The batch that takes the most memory of those that can be drawn, as far as is known."""
        self._enter("load")
        return self._samples.largest(batch_size, seed)

    def load_validation(self, batch_size: int, seed: int) -> Any:
        """A batch to evaluate: of the validation data where it is large enough, else of the training data."""
        self._enter("load")
        held = self._val_samples
        if held is not None and (held.size is None or held.size >= batch_size):
            with contextlib.suppress(StreamEndedError):
                return held.batch(batch_size, seed)
        return self._samples.batch(batch_size, seed)

    def load_repeated(self, batch_size: int) -> Any:
        """A batch of one sample, the largest known, `batch_size` times."""
        self._enter("load")
        return self._samples.repeated(batch_size)

    def load_rows(self, rows: Sequence[int]) -> Any:
        """A batch of the given rows of the training set. Raises TargetError for a stream."""
        self._enter("load")
        return self._samples.rows(rows)

    def step(self, batch: Any) -> torch.Tensor | None:
        """One full training step; returns the loss, or None where the user's loop keeps it to itself."""
        self._enter("forward")
        batch = to_device(batch, self._device)
        if self._parts.step is not None:
            loss = self._parts.step(self.model, self._optimizer_argument(), batch)
            return loss.detach() if isinstance(loss, torch.Tensor) else None
        # As in a loop of one's own, the loss lives until the next one: its graph lies between the tensors
        # on the heap, and what fits there depends on it.
        loss = self._last_loss = self._backward(batch)
        self._enter("step")
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def backward(self, batch: Any) -> None:
        """The gradient of the loss on a batch, left in the parameters. Raises TargetError for a `step`."""
        self._enter("forward")
        if self._parts.step is not None:
            raise TargetError("your `step` keeps its gradients to itself", code="no_gradient")
        self._backward(to_device(batch, self._device))

    def _backward(self, batch: Any) -> torch.Tensor:
        loss = self._loss(batch)
        self._enter("backward")
        loss.backward()
        return loss

    def evaluate(self, batch: Any) -> torch.Tensor | None:
        """The loss of a batch, without gradients; None for a loop of the user's own (`step`)."""
        if self._parts.step is not None:
            return None
        self._enter("evaluation")
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                return self._loss(to_device(batch, self._device))
        finally:
            self.model.train()
            # Parts that a model keeps out of training stay out.
            for module, mode in modes:
                module.training = mode

    def held_out_loss(self, rows: Sequence[int], *, from_validation: bool) -> float:
        """The loss of rows of the validation set, or of the training set."""
        samples = self._val_samples if from_validation else self._samples
        assert samples is not None
        self._enter("load")
        loss = self.evaluate(samples.rows(rows))
        assert loss is not None
        return float(loss)

    def use_device(self, device: str) -> None:
        """Takes batches to another device from here on, one that the model is on."""
        self._device = device

    def scale_learning_rates(self, factor: float) -> None:
        """Multiplies the learning rate of every parameter group."""
        optimizers.scale_learning_rates(self.optimizers, factor)

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
            return "your `training_step`", lambda batch: scalar(own_step(self.model, batch))
        example = self._samples.batch(1, 0)
        if parts.loss_fn is None and _model_takes_labels(self.model, example):
            return "the model's own", lambda batch: scalar(own_loss(self.model(**batch)))
        inputs, target = split_batch(example)
        if self._samples.synthetic and target is None:
            self._inferred.append("loss: mean square of the output, since the inputs are synthetic")
            return (
                "mean square of the output",
                lambda batch: tensor_of(_call(self.model, batch)).square().mean(),
            )
        if target is None:
            raise no_target(inputs)
        given = parts.loss_fn
        if given is not None:
            return getattr(given, "__name__", type(given).__name__), lambda batch: scalar(
                self._apply(given, batch)
            )
        name, loss_fn, reason = infer(target)
        self._inferred.append(f"loss: {name}, since {reason}")
        return name, lambda batch: scalar(self._apply(loss_fn, batch))

    def _apply(self, loss_fn: Callable[..., Any], batch: Any) -> Any:
        inputs, target = split_batch(batch)
        return loss_fn(tensor_of(_call(self.model, inputs)), target)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = self._parts
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if parts.make_optimizers is not None:
            return optimizers.as_optimizers(parts.make_optimizers(self.model), self.model, self._device)
        if parts.optimizer is not None:
            made = parts.optimizer
            if callable(made) and not isinstance(made, torch.optim.Optimizer):
                made = made(trained)
            return optimizers.as_optimizers(made, self.model, self._device)
        if not trained:
            raise TargetError(
                f"{type(self.model).__name__} has no parameter to train",
                code="nothing_to_train",
                hint="give a model with parameters that require gradients",
            )
        self._inferred.append(f"optimizer: AdamW, learning rate {_DEFAULT_LEARNING_RATE:g}")
        return [torch.optim.AdamW(trained, lr=_DEFAULT_LEARNING_RATE)]


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, shared storage counted once."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not _is_lazy(t)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


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

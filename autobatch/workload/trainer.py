"""What is trained: one model, one optimizer, one training step and one evaluation on a device.

What a target leaves out is inferred where that is safe (cross-entropy for integer targets, the mean
squared error for floats, AdamW), and listed in `inferred`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from autobatch.devices import torch_internals
from autobatch.records.errors import TargetError
from autobatch.records.limits import Precision
from autobatch.records.workload import SampleSizes, Workload
from autobatch.workload import compilation, loss_choice, optimizers
from autobatch.workload.batches import to_device
from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.dataset import Samples, StreamedSamples, StreamEndedError
from autobatch.workload.keras import compiled
from autobatch.workload.loss import scalar
from autobatch.workload.precision import Arithmetic
from autobatch.workload.process_group import Loss, Ranks
from autobatch.workload.target import Parts

_DEFAULT_LEARNING_RATE = 1e-3
# Each compiles more; what compiles anew in every step is not waited for.
_MOST_PASSES = 4
# From 2^16 down to where the smallest numbers of fp16 are larger than any gradient.
_MOST_SKIPS = 40


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
        ranks: Ranks | None = None,
        *,
        accumulates: bool = False,
    ) -> None:
        self._parts = parts
        self._accumulates = accumulates
        self.ranks = ranks or Ranks()
        self._samples = samples
        self._val_samples = val_samples
        self._device = device
        self._inferred: list[str] = list(samples.notes)
        self.on_phase = on_phase
        self.phase = ""
        self.optimizer_steps = 0
        self._last_loss: torch.Tensor | None = None
        self.skipped_steps = 0
        self._enter("build")
        self.arithmetic = Arithmetic(parts.precision, device)
        self.model = parts.make_model().to(device)
        self.compiled = compilation.is_compiled(self.model)
        if self.compiled:
            compilation.lift_limits()
        self.model.train()
        self._keras = self._open_keras()
        self._model_name, self._parameters = compilation.name_of(self.model), self._count_parameters()
        self._loss_name, self._loss = self._choose_loss()
        self._parallelize()
        self.optimizers = self._make_optimizers()
        self._replica = self._replicated()
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
        if self._keras is not None and self._keras.own_step:
            return "the model's own `train_step` keeps its gradients to itself"
        if isinstance(self._samples, StreamedSamples):
            return "the data set is a stream, which gives its samples once"
        return ""

    @property
    def sample_sizes(self) -> SampleSizes | None:
        """How large the training samples are, of those that were looked at so far."""
        return self._samples.sizes

    @property
    def frameworks(self) -> tuple[str, ...]:
        """What takes seconds to import beside torch, and is the same for every session."""
        return () if self._keras is None else ("keras",)

    @property
    def drifting(self) -> list[torch.Tensor]:
        """What a forward pass changes in the model, buffers excepted."""
        return [] if self._keras is None else self._keras.drifting

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
            model=self._model_name,
            parameters=self._parameters,
            loss=self._loss_name,
            optimizer=optimizers.names(self.optimizers),
            learning_rate=optimizers.learning_rate(self.optimizers),
            decays=optimizers.decays(self.optimizers),
            dataset=self._samples.kind,
            dataset_size=self._samples.size,
            batch_size=self._current_batch_size,
            epochs=self._parts.epochs,
            schedule=self._parts.schedule or (() if self._keras is None else self._keras.schedule),
            synthetic=self._samples.synthetic,
            sizes=self._samples.sizes,
            workers=None if self._parts.loader is None else self._parts.loader.workers,
            precision=self._precision,
            inferred=(*self._inferred, *self._parts.remarks()),
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
            loss = self._parts.step(self._replica, self._optimizer_argument(), batch)
            return loss.detach() if isinstance(loss, torch.Tensor) else None
        if self._keras is not None:
            return self._keras_step(self._keras, batch)
        # As in a loop of one's own, gradients live until the next step, through an evaluation, and so does
        # the loss: its graph lies between the tensors on the heap, and what fits there depends on it.
        if not self._parts.zero_grad_after_forward:
            self._zero_gradients()
        loss = self._last_loss = self._forward(batch)
        if self._parts.zero_grad_after_forward:
            self._zero_gradients()
        self._backward(loss)
        self._enter("step")
        if not self.arithmetic.step(self.optimizers):
            self.skipped_steps += 1
        return loss.detach()

    def backward(self, batch: Any) -> None:
        """The gradient of the loss on a batch, left in the parameters. Raises TargetError for a `step`."""
        self._enter("forward")
        if self._parts.step is not None:
            raise TargetError("your `step` keeps its gradients to itself", code="no_gradient")
        batch = to_device(batch, self._device)
        if self._keras is not None:
            self._keras.backward(batch)
            return
        for _ in range(_MOST_SKIPS):
            self._backward(self._forward(batch))
            if self.arithmetic.unscale(self.optimizers):
                return
            self.model.zero_grad(set_to_none=True)
        raise _overflow()

    def _forward(self, batch: Any) -> torch.Tensor:
        with self.arithmetic.autocast():
            loss: torch.Tensor = self._replica(batch)
        return loss

    def _backward(self, loss: torch.Tensor) -> None:
        self._enter("backward")
        self.arithmetic.backward(loss)

    def _zero_gradients(self) -> None:
        # From the second batch of a step on, gradients are there already, and what comes is added to them.
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=not self._accumulates)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which a step exchanges nothing with other ranks, whose weights then differ.

        Raises TargetError where the ranks are the user's own affair.
        """
        if self._parts.parallelize is not None:
            raise TargetError(
                "what `parallelize` returns can't be stepped without its communication",
                code="own_parallelism",
            )
        replica, self._replica = self._replica, self._unreplicated()
        try:
            yield
        finally:
            self._replica = replica

    def highest(self, *values: float) -> tuple[float, ...]:
        """Of each value the highest that a rank has given; all ranks have to ask."""
        return self.ranks.highest(*values)

    def warm_up(self, batch: Any) -> bool:
        """Compiles what this batch needs, and finds a scale for its gradients, which a training does once.

        False where there is nothing of the kind to do. Raises TargetError where there is no such scale.
        """
        scales = self.arithmetic.scales and self._parts.step is None
        if self.compiled:
            with self.compiling():
                self._compile(batch)
        if scales:
            self._find_scale(batch)
        return self.compiled or scales

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """A context whose time is not that of training; its phases are one to whoever listens."""
        tell, self.on_phase = self.on_phase, lambda name: None
        tell(compilation.BEGINS)
        try:
            yield
        finally:
            self.on_phase = tell
            tell(compilation.ENDS)

    def _compile(self, batch: Any) -> None:
        for _ in range(_MOST_PASSES):
            before = torch_internals.compiled_frames()
            self.step(batch)
            self.evaluate(batch)
            if torch_internals.compiled_frames() == before:
                return

    def _find_scale(self, batch: Any) -> None:
        for _ in range(_MOST_SKIPS):
            before = self.skipped_steps
            loss = self.step(batch)
            if self.skipped_steps == before or (loss is not None and not math.isfinite(float(loss))):
                return
        raise _overflow()

    def evaluate(self, batch: Any) -> torch.Tensor | None:
        """The loss of a batch, without gradients; None for a loop of the user's own (`step`)."""
        if self._parts.step is not None or (self._keras is not None and self._keras.own_step):
            return None
        self._enter("evaluation")
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad(), self.arithmetic.autocast():
                return self._judge(to_device(batch, self._device))
        finally:
            self.model.train()
            # Parts that a model keeps out of training stay out.
            for module, mode in modes:
                module.training = mode

    def _judge(self, batch: Any) -> torch.Tensor:
        own = self._parts.evaluation_step
        return self._loss(batch) if own is None else scalar(own(self.model, batch))

    def held_out_loss(self, rows: Sequence[int], *, from_validation: bool) -> float:
        """The loss of rows of the validation set, or of the training set."""
        samples = self._val_samples if from_validation else self._samples
        assert samples is not None
        self._enter("load")
        loss = self.evaluate(samples.rows(rows))
        assert loss is not None
        return float(loss)

    def use_device(self, device: str) -> None:
        """Takes batches to another device from here on, one that the model is on. No step is skipped."""
        self._device = device
        self.arithmetic = Arithmetic(self._parts.precision, device, first_scale=1.0)

    def scale_learning_rates(self, factor: float) -> None:
        """Multiplies the learning rate of every parameter group."""
        optimizers.scale_learning_rates(self.optimizers, factor)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.on_phase(phase)

    def _parallelize(self) -> None:
        """Hands the model to the user's `parallelize`. Raises TargetError for what ranks can't share."""
        if self.ranks.count == 1:
            return
        if self._keras is not None:
            raise TargetError(
                "a Keras model can't be measured on several ranks",
                code="keras_ranks",
                hint="measure it in one process, or train it with a `step` of your own",
            )
        self.materialize()
        self.ranks.require_alike(f"{self._model_name}, {self._count_parameters():,} parameters")
        if self._parts.parallelize is not None:
            self.model = self._parts.parallelize(self.model)
            if not isinstance(self.model, nn.Module):
                raise TargetError(
                    f"`parallelize` returned a {type(self.model).__name__}, not an nn.Module",
                    code="not_a_model",
                    hint="return the model from it",
                )
            self._inferred.append(f"parallelized by `parallelize` on {self.ranks.count} ranks")

    def _replicated(self) -> Callable[..., Any]:
        """What a training step calls: the loss of a batch, or the model for a loop of the user's own."""
        if self.ranks.count == 1 or self._parts.parallelize is not None:
            return self._unreplicated()
        return self.ranks.replicated(Loss(self.model, self._loss) if self._parts.step is None else self.model)

    def _unreplicated(self) -> Callable[..., Any]:
        return self._loss if self._parts.step is None else self.model

    def _count_step(self, *_: Any) -> None:
        self.optimizer_steps += 1

    def _optimizer_argument(self) -> Any:
        return self.optimizers if len(self.optimizers) > 1 else self.optimizers[0]

    def _open_keras(self) -> compiled.CompiledModel | None:
        """The model as Keras trains it, where it is one of Keras'."""
        names = ("loss_fn", "optimizer", "make_optimizers", "training_step", "step")
        given = {name: getattr(self._parts, name) for name in names}
        found = compiled.open_model(self.model, self._device, given, lambda: self._samples.batch(1, 0))
        if found is not None:
            if self._parts.precision is not Precision.FP32:
                raise _keras_precision(self._parts.precision)
            self._samples.at_once = True
            if self._parts.batch_size is None:
                self._inferred.append(f"present batch size: {compiled.BATCH_SIZE}, which Keras' `fit` takes")
        return found

    @property
    def _precision(self) -> Precision | None:
        """None where the training has its own."""
        own = self._parts.step is not None or self._keras is not None
        return None if own else self._parts.precision

    @property
    def _current_batch_size(self) -> int | None:
        return self._parts.batch_size or (None if self._keras is None else compiled.BATCH_SIZE)

    def _count_parameters(self) -> int:
        if self._keras is not None:
            return self._keras.parameters
        return sum(p.numel() for p in self.model.parameters() if not _is_lazy(p))

    def _keras_step(self, model: compiled.CompiledModel, batch: Any) -> torch.Tensor | None:
        """A step that Keras makes as a whole: no phase of it can be told from the others."""
        self._enter("step")
        return model.step(batch)

    def _choose_loss(self) -> tuple[str, Callable[[Any], torch.Tensor]]:
        if self._keras is not None:
            return self._keras.loss_name, self._keras.loss
        chosen = loss_choice.choose(self._parts, self.model, self._samples)
        self._inferred += chosen.inferred
        # `parallelize` may put another model in the place of this one.
        return chosen.name, lambda batch: chosen.loss(self.model, batch)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = self._parts
        if self._keras is not None:
            return [self._keras.optimizer]
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


def _keras_precision(asked: Precision) -> TargetError:
    return TargetError(
        f"`{asked}` can't be asked of a Keras model, which has a policy for it",
        code="own_precision",
        hint='leave it out, and call `keras.config.set_dtype_policy("mixed_bfloat16")` before you build it',
    )


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, shared storage counted once."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not _is_lazy(t)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _is_lazy(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


def _overflow() -> TargetError:
    return TargetError(
        "in fp16 the gradients are not finite, however small the loss is scaled",
        code="gradient_not_finite",
        facts=(f"after {_MOST_SKIPS} steps, the scale halved with each",),
        hint="use `bf16`, whose numbers reach as far as those of fp32",
    )

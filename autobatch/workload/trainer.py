"""A training on a device: its samples, its loop, its phases and its counters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from autobatch.records.errors import TargetError
from autobatch.records.workload import SampleSizes, Workload
from autobatch.workload import compilation, loop_choice, optimizers
from autobatch.workload.batches import to_device
from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.description import describe
from autobatch.workload.evaluation import Evaluation
from autobatch.workload.holdout import Split, split
from autobatch.workload.loss_choice import move_loss
from autobatch.workload.model_size import floating_dtype, is_lazy
from autobatch.workload.parts import Parts
from autobatch.workload.precision import Arithmetic
from autobatch.workload.process_group import Ranks
from autobatch.workload.samples import Samples
from autobatch.workload.streamed_samples import StreamedSamples, StreamEndedError


class Trainer:
    """A model on a device with its samples, and the steps that training repeats.

    `phase` names the current activity; `on_phase` is called at each change, and `on_new_size` before a batch
    of another size than the one before.
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
        """Builds model, loss and optimizers. Raises TargetError where one of them can't be used."""
        self._parts = parts
        self.ranks = ranks or Ranks()
        self._samples = samples
        self._val_samples = val_samples
        self._device = device
        self.on_phase = on_phase
        self.on_new_size: Callable[[], None] = lambda: None
        self.phase = ""
        self.optimizer_steps = 0
        self._last_size = 0
        self._enter("build")
        self.arithmetic = Arithmetic(parts.precision, device)
        self._evaluation = Evaluation()
        model = self._make_model()
        for source in filter(None, (samples, val_samples)):
            source.use_dtype(floating_dtype(model))
        move_loss(parts.loss_fn, device)
        self._loop = loop_choice.choose(
            parts,
            model,
            samples,
            device,
            self.arithmetic,
            self._enter,
            ranks=self.ranks.count,
            accumulates=accumulates,
        )
        # A first batch that fails is an error of its trial.
        with contextlib.suppress(Exception):
            self.materialize()
        self._model_name, self._parameters = compilation.name_of(model), self._loop.parameters
        if self.ranks.count > 1:
            self._parallelize()
        self._loop.make_optimizers()
        if self.ranks.count > 1 and parts.parallelize is None:
            self._loop.replicate(self.ranks.replicated)
        for optimizer in self.optimizers:
            optimizer.register_step_post_hook(self._count_step)

    @property
    def model(self) -> nn.Module:
        return self._loop.model

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        return self._loop.optimizers

    @property
    def optimizer_tensors(self) -> int:
        """Tensors that the optimizers keep."""
        return optimizers.kept_tensors(self.optimizers)

    @property
    def skipped_steps(self) -> int:
        """Steps that fp16 had to skip, since a gradient overflowed."""
        return self.arithmetic.skipped_steps

    @property
    def dataset_size(self) -> int | None:
        return self._samples.size

    @property
    def validation_size(self) -> int | None:
        """The number of validation samples; None without a set whose rows can be picked."""
        held_out = self._val_samples
        return None if held_out is None or isinstance(held_out, StreamedSamples) else held_out.size

    def hold_out(self, wanted: int, seed: int) -> Split | None:
        """The samples to train on and those to judge by; None where there are too few of them."""
        return split(self.dataset_size or 0, self.validation_size, wanted, seed, self._samples.keys)

    @property
    def why_no_check(self) -> str:
        """The reason why neither gradient noise nor loss can be measured; empty where they can."""
        if self._loop.why_no_gradient:
            return self._loop.why_no_gradient
        if isinstance(self._samples, StreamedSamples):
            return "the data set is a stream, which gives its samples once"
        return ""

    @property
    def hides_gradient(self) -> bool:
        """True where the user's loop keeps its gradients to itself."""
        return bool(self._loop.why_no_gradient)

    @property
    def sample_sizes(self) -> SampleSizes | None:
        """The sizes of the training samples that were read so far."""
        return self._samples.sizes

    @property
    def frameworks(self) -> tuple[str, ...]:
        """Frameworks beside torch that take seconds to import, the same for every session."""
        return self._loop.frameworks

    @property
    def drifting(self) -> list[torch.Tensor]:
        """Tensors that a forward pass changes in the model, buffers excepted."""
        return self._loop.drifting

    @property
    def keeps_samples(self) -> bool:
        """True where batches come from samples that were read before: loading them takes no time."""
        return self._samples.kept

    def loader(self, batch_size: int, workers: int, seed: int) -> DataLoader[Any] | None:
        """The user's DataLoader at another size; None where the samples can't be read again."""
        settings = self._parts.loader or LoaderSettings()
        return self._samples.loader(settings, batch_size, workers, seed)

    def materialize(self) -> None:
        """Gives lazy modules their weights, which they get from a first batch."""
        if any(is_lazy(parameter) for parameter in self.model.parameters()):
            self.evaluate(self._samples.example())

    def describe(self) -> Workload:
        """The workload, with everything that was inferred."""
        return describe(
            self._parts,
            self._loop,
            self._samples,
            model=self._model_name,
            parameters=self._parameters,
            ranks=self.ranks.count,
        )

    def load(self, batch_size: int, seed: int) -> Any:
        """A batch of exactly `batch_size` samples in main memory."""
        self._enter_load(batch_size)
        return self._samples.batch(batch_size, seed)

    def load_largest(self, batch_size: int, seed: int) -> Any:
        """The batch that takes the most memory, as far as the samples were read."""
        self._enter("load")
        return self._samples.largest(batch_size, seed)

    def load_validation(self, batch_size: int, seed: int) -> Any:
        """A batch to evaluate: validation samples where there are enough, else training samples."""
        self._enter("load")
        held_out = self._val_samples
        if held_out is not None and (held_out.size is None or held_out.size >= batch_size):
            with contextlib.suppress(StreamEndedError):
                return held_out.batch(batch_size, seed)
        return self._samples.batch(batch_size, seed)

    def load_repeated(self, batch_size: int) -> Any:
        """A batch that repeats the largest sample that was read `batch_size` times."""
        self._enter("load")
        return self._samples.repeated(batch_size)

    def load_rows(self, rows: Sequence[int]) -> Any:
        """A batch of the given rows of the training set. Raises TargetError for a stream."""
        self._enter_load(len(rows))
        return self._samples.rows(rows)

    def step(self, batch: Any) -> torch.Tensor | None:
        """Makes one full training step; returns the loss, or None where the user's loop hides it."""
        self._enter("forward")
        return self._loop.step(to_device(batch, self._device))

    def backward(self, batch: Any) -> torch.Tensor:
        """Leaves the gradient of a batch's loss in the parameters; returns the loss.

        Raises TargetError for a `step`.
        """
        self._enter("forward")
        return self._loop.backward(to_device(batch, self._device)).detach()

    def evaluate(self, batch: Any) -> torch.Tensor | None:
        """The loss of a batch, without gradients; None where the user's loop hides it."""
        if self._loop.why_no_gradient:
            return None
        self._enter("evaluation")
        moved = to_device(batch, self._device)

        def loss() -> torch.Tensor:
            with self.arithmetic.autocast():
                return self._loop.evaluation_loss(moved)

        return self._evaluation.loss(self.model, loss, self._device)

    @property
    def evaluation_note(self) -> str:
        """How losses of held-out samples are computed; empty for the usual way, in evaluation mode."""
        return self._evaluation.note

    def held_out_loss(self, rows: Sequence[int], *, from_validation: bool) -> float:
        """The loss of rows of the validation set, or of the training set."""
        samples = self._val_samples if from_validation else self._samples
        assert samples is not None
        self._enter_load(len(rows))
        loss = self.evaluate(samples.rows(rows))
        assert loss is not None
        return float(loss)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which a step exchanges nothing with other ranks, whose weights then differ.

        Raises TargetError where the user parallelizes the model.
        """
        if self._parts.parallelize is not None:
            raise TargetError(
                "what `parallelize` returns can't be stepped without its communication",
                code="own_parallelism",
            )
        with self._loop.alone():
            yield

    def highest(self, *values: float) -> tuple[float, ...]:
        """The highest of each value over all ranks. Every rank has to call it."""
        return self.ranks.highest(*values)

    def warm_up(self, batch: Any) -> bool:
        """Compiles for this batch and finds a loss scale for fp16, which a training does once.

        False where neither is needed. Raises TargetError where no loss scale works.
        """
        scales = self.arithmetic.scales and self._loop.precision is not None
        if self.compiled:
            with self.compiling():
                compilation.repeat_while_compiling(lambda: (self.step(batch), self.evaluate(batch)))
        if scales:
            self.arithmetic.find_scale(lambda: self.step(batch))
        return self.compiled or scales

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """A context that `on_phase` hears of as one phase, since its time is not that of training."""
        on_phase, self.on_phase = self.on_phase, lambda name: None
        on_phase(compilation.BEGINS)
        try:
            yield
        finally:
            self.on_phase = on_phase
            on_phase(compilation.ENDS)

    def use_device(self, device: str) -> None:
        """Takes batches to another device from here on, where the model is by then. No step is skipped."""
        self._device = device
        self.arithmetic.move_to(device)
        move_loss(self._parts.loss_fn, device)

    def scale_learning_rates(self, factor: float) -> None:
        """Multiplies the learning rate of every parameter group."""
        optimizers.scale_learning_rates(self.optimizers, factor)

    def _make_model(self) -> nn.Module:
        """The model on its device, in training mode."""
        model = self._parts.make_model().to(self._device)
        self.compiled = compilation.is_compiled(model)
        if self.compiled:
            compilation.lift_limits()
        model.train()
        return model

    def _parallelize(self) -> None:
        """Hands the model to the user's `parallelize`. Raises TargetError where ranks can't share it."""
        self.materialize()
        self.ranks.require_alike(f"{self._model_name}, {self._loop.parameters:,} parameters")
        if self._parts.parallelize is None:
            return
        model = self._parts.parallelize(self.model)
        if not isinstance(model, nn.Module):
            raise TargetError(
                f"`parallelize` returned a {type(model).__name__}, not an nn.Module",
                code="not_a_model",
                hint="return the model from it",
            )
        self._loop.use_model(model)
        self._loop.inferred.append(f"parallelized by `parallelize` on {self.ranks.count} ranks")

    def _enter_load(self, size: int) -> None:
        self._enter("load")
        if size != self._last_size:
            self._last_size = size
            self.on_new_size()

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.on_phase(phase)

    def _count_step(self, *_: Any) -> None:
        self.optimizer_steps += 1

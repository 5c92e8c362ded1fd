"""The parts of a training, as a target file or a call of `find` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autobatch.records.errors import TargetError, UsageError
from autobatch.records.limits import Precision
from autobatch.records.workload import StepCount
from autobatch.workload.data_loader import LoaderSettings
from autobatch.workload.keras import detection


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A training, in the arguments of `find`, and in the names of a target file.

    `model`: an nn.Module, or a function that returns one. `loader`: None for a data set without DataLoader.
    `sampler`: chooses the samples of an epoch; None where all are taken, or where `dataset` is a DataLoader.
    `parallelize`: makes of the model on its device a module for several ranks, in place of
    DistributedDataParallel. `batch_size`: the current samples of an optimizer step on one device, made up of
    `accumulation_steps` batches; `batch_size_source`: the object of a target that gave it.
    `learning_rate_power`: of the batch size, as a factor of the learning rate. `prepared`: the sender has set
    up the data. `zero_grad_after_forward`: gradients of a step live until after the next forward pass.
    `remarks`: notes on a training that a framework defines.
    """

    name: str = "find"
    model: Any
    dataset: Any = None
    val_dataset: Any = None
    sampler: Any = None
    val_sampler: Any = None
    loader: LoaderSettings | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    val_collate_fn: Callable[[list[Any]], Any] | None = None
    loss_fn: Callable[..., Any] | None = None
    optimizer: Any = None
    make_optimizers: Callable[[nn.Module], Any] | None = None
    training_step: Callable[..., Any] | None = None
    evaluation_step: Callable[..., Any] | None = None
    step: Callable[..., Any] | None = None
    parallelize: Callable[[nn.Module], nn.Module] | None = None
    batch_size: int | None = None
    batch_size_source: str = ""
    accumulation_steps: int = 1
    learning_rate_power: float = 0.0
    epochs: float | None = None
    schedule: tuple[StepCount, ...] = ()
    prepared: bool = False
    zero_grad_after_forward: bool = False
    remarks: Callable[[], tuple[str, ...]] = tuple
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        """Raises UsageError where the accumulation steps don't divide the batch size."""
        size, steps = self.batch_size, self.accumulation_steps
        if steps < 1 or (size is not None and size % steps):
            raise UsageError(
                f"`accumulation_steps` must divide `batch_size`: {steps} does not divide {size}",
                code="bad_accumulation",
                hint="`batch_size` counts the samples of an optimizer step, over all of its batches",
            )

    def batch_size_with(self, loaded: int | None) -> int | None:
        """The samples of an optimizer step: as given, or of as many batches of `loaded` samples."""
        if self.batch_size is not None or loaded is None:
            return self.batch_size
        return loaded * self.accumulation_steps

    @property
    def ready_model(self) -> nn.Module | None:
        """The model where it exists already; None where a function makes it."""
        return self.model if isinstance(self.model, nn.Module) else None

    def make_model(self) -> nn.Module:
        """The model to train. Raises TargetError where its function returns no nn.Module."""
        if isinstance(self.model, nn.Module):
            return self.model
        made = self.model()
        detection.refuse_other_backend(made)
        if not isinstance(made, nn.Module):
            function = getattr(self.model, "__name__", self.model)
            raise TargetError(
                f"`{function}()` returned a {type(made).__name__}, not an nn.Module",
                code="not_a_model",
                hint="return the model from it",
            )
        return made


def check_model(model: Any, name: str) -> None:
    """Raises TargetError for a model, of the target `name`, that is neither an nn.Module nor a function."""
    detection.refuse_other_backend(model)
    if not isinstance(model, nn.Module) and not callable(model):
        raise TargetError(
            f"the model of `{name}` is a {type(model).__name__}, not an nn.Module",
            code="not_a_model",
            hint="give an nn.Module, or a function that returns one",
        )


def schedule_of(counts: Mapping[str, Any]) -> tuple[StepCount, ...]:
    """The entries of `counts` that are a positive number of steps, by name."""
    return tuple(
        StepCount(name=name, steps=steps)
        for name, steps in counts.items()
        if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0
    )

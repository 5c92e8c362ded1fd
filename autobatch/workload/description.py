"""The description of a training: everything that was declared or inferred, as a record."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autobatch.records.workload import StepCount, Workload
from autobatch.workload import optimizers
from autobatch.workload.framework import framework_of
from autobatch.workload.parts import Parts
from autobatch.workload.samples import Samples
from autobatch.workload.training_loop import TrainingLoop


def describe(
    parts: Parts, loop: TrainingLoop, samples: Samples, *, model: str, parameters: int, ranks: int
) -> Workload:
    """The workload of `parts`. `model` and `parameters`: its name and their number on one rank."""
    batch_size, schedule = parts.batch_size or loop.batch_size, parts.schedule or loop.schedule
    of_steps = _epochs_of_steps(schedule, batch_size, samples.size, ranks)
    return Workload(
        target=parts.name,
        model=model,
        parameters=parameters,
        loss=loop.loss_name,
        optimizer=optimizers.names(loop.optimizers),
        learning_rate=optimizers.learning_rate(loop.optimizers),
        learning_rate_power=parts.learning_rate_power,
        decays=optimizers.decays(loop.optimizers),
        dataset=samples.kind,
        dataset_size=samples.size,
        batch_size=batch_size,
        accumulation_steps=parts.accumulation_steps,
        epochs=of_steps if parts.epochs is None else parts.epochs,
        counted_in_steps=parts.epochs is None and of_steps is not None,
        schedule=schedule,
        batch_statistics=_batch_statistics(loop.model),
        synthetic=samples.synthetic,
        sizes=samples.sizes,
        workers=None if parts.loader is None else parts.loader.workers,
        drop_last=parts.loader is not None and parts.loader.drop_last,
        precision=loop.precision,
        framework=framework_of(loop.model),
        inferred=(*samples.notes, *loop.inferred, *parts.remarks()),
    )


def _epochs_of_steps(
    schedule: Sequence[StepCount], batch_size: int | None, samples: int | None, ranks: int
) -> float | None:
    """The epochs of a training that ends after `max_steps` optimizer steps; None where that is unknown."""
    steps = next((count.steps for count in schedule if count.name == "max_steps"), None)
    if steps is None or batch_size is None or not samples:
        return None
    return steps * batch_size * ranks / samples


def _batch_statistics(model: nn.Module) -> str:
    """The kind of layers that normalize over the batch in training; empty where there are none."""
    kinds = {type(module).__name__ for module in model.modules() if _normalizes_over_batch(module)}
    return min(kinds, default="")


def _normalizes_over_batch(module: nn.Module) -> bool:
    """True for torch's layers and those derived from them, and for Keras' layer."""
    of_torch = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm))
    return of_torch or type(module).__name__ == "BatchNormalization"

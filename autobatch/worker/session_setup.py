"""Sets up the workload of a session: ranks, parts, samples, and the errors of the user's code meanwhile."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader

from autobatch.devices import open_backend
from autobatch.devices.base import Backend
from autobatch.devices.oom import Cause, classify
from autobatch.engines import messages, worker_failures
from autobatch.records.errors import AutobatchError, DeviceError, TargetError, UsageError
from autobatch.records.limits import Precision
from autobatch.workload import optimizers, sampling, serialization
from autobatch.workload.checkpoint import with_weights
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.process_group import Ranks, RanksTogether
from autobatch.workload.samples import Samples
from autobatch.workload.synthetic_samples import SyntheticSamples
from autobatch.workload.target import load_parts
from autobatch.workload.user_errors import describe_error, exit_error, location_of

_DURING = {
    "import": "it was imported",
    "setup": "its module and its data were set up",
    "load": "its data set was opened",
    "build": "its model and optimizer were made",
}
_DATASET_NAMES = "looked for `build_dataset()`, `dataset`, `train_dataset`, `train_dataloader`, `datamodule`"


@contextmanager
def target_errors(phase: str, target: str, ranks: int) -> Iterator[None]:
    """A context whose failures become errors of the target, in a phase of the set-up.

    Raises DeviceError where the memory does not suffice, and the error of a failed rank, of several.
    """
    name = f"`{target}`" if target else "the model"
    try:
        yield
    except AutobatchError:
        raise
    except SystemExit as stopped:
        raise exit_error(name, _DURING[phase], stopped) from None
    # A file may raise no Exception: `pytest.skip` and the like derive from BaseException.
    except BaseException as error:
        cause = classify(error)
        if cause is Cause.PEER and ranks > 1:
            raise worker_failures.rank_failed(describe_error(error)) from None
        if cause is Cause.OUT_OF_MEMORY:
            raise DeviceError(
                "the model alone does not fit into the memory limit",
                code="nothing_fits",
                facts=(describe_error(error),),
                hint="raise `--memory-limit`, stop other processes on the device, or use a smaller model",
            ) from None
        raise TargetError(
            f"{name} raised an error while {_DURING[phase]}",
            code="target_raises",
            facts=(describe_error(error), *location_of(error)),
        ) from None


def join_ranks(command: messages.Start) -> tuple[str | None, Ranks]:
    """(device, ranks) of a session. It comes before the user's code, which may look for its group.

    Raises DeviceError or TargetError where the ranks don't come together.
    """
    group = command.group
    if group is None:
        return command.device, Ranks()
    device = open_backend(command.device).kind if command.device is None else command.device
    if device not in ("cpu", "mps") and ":" not in device:
        device = f"{device}:{group.local_rank % max(1, torch.accelerator.device_count())}"
    try:
        ranks = RanksTogether(
            group.rank, group.ranks, device, group.host, group.port, group.prefix, group.timeout_seconds
        )
    except Exception as error:
        raise worker_failures.rank_failed(describe_error(error)) from None
    return device, ranks


def memory_share(command: messages.Start, backend: Backend) -> float:
    """The fraction of the memory to use. Ranks of one machine share its main memory without a given limit."""
    shared = command.group is not None and command.memory_bytes is None and backend.kind == "cpu"
    return command.memory_fraction / (command.group.local_ranks if shared and command.group else 1)


def load_recipe(recipe: messages.Recipe) -> Parts:
    """The parts of the target, or of the caller's objects. Raises TargetError, and errors of the file."""
    sys.path[:] = [*recipe.sys_path, *(path for path in sys.path if path not in recipe.sys_path)]
    parts = (
        serialization.unpacked_parts(recipe.payload)
        if recipe.payload
        else load_parts(recipe.target, recipe.arguments)
    )
    return parts if recipe.epochs is None else replace(parts, epochs=recipe.epochs)


def with_options(parts: Parts, recipe: messages.Recipe) -> Parts:
    """The parts with the precision, the weights and the optimizer that the recipe asks for.

    Raises UsageError, and TargetError for a checkpoint that does not fit.
    """
    parts = in_precision(parts, recipe.precision)
    parts = with_weights(parts, recipe.checkpoint) if recipe.checkpoint else parts
    if recipe.optimizer is None:
        return parts
    return replace(parts, optimizer=optimizers.NAMED[recipe.optimizer], make_optimizers=None)


def in_precision(parts: Parts, precision: Precision | None) -> Parts:
    """The parts in `precision`, None for their own. Raises UsageError where a `step` sets it by itself."""
    if parts.step is None:
        return parts if precision is None else replace(parts, precision=precision)
    if precision is not None:
        raise UsageError(
            "`--precision` can't be used with a `step` of your own",
            code="own_precision",
            facts=(f"the loop of `{parts.name}` runs forward, backward and optimizers by itself",),
            hint="put `with torch.autocast(...)` into that `step`, and leave the option out",
        )
    return replace(parts, precision=Precision.FP32)


def open_both_samples(parts: Parts, command: messages.Start) -> tuple[Samples, Samples | None]:
    """(training samples with their sizes scanned, validation samples). Raises TargetError without data."""
    recipe = command.recipe
    if recipe.input_shape is not None:
        return SyntheticSamples(recipe.input_shape, recipe.classes), None
    if parts.dataset is None:
        raise _no_dataset(recipe.target)
    val_samples = None
    if parts.val_dataset is not None:
        val_collate_fn = parts.val_collate_fn or parts.collate_fn
        val_samples = open_samples(parts.val_dataset, val_collate_fn, parts.val_sampler)
    sampling.refuse_batches(_sampler_of(parts))
    samples = open_samples(parts.dataset, parts.collate_fn, parts.sampler)
    if command.scan is not None:
        samples.scanned = command.scan
    else:
        samples.scan(command.seed)
    return samples, val_samples


def _sampler_of(parts: Parts) -> Any:
    return sampling.sampler_of(parts.dataset) if isinstance(parts.dataset, DataLoader) else parts.sampler


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _no_dataset(target: str) -> TargetError:
    if not target:
        return TargetError("no data set was given", code="no_dataset", hint="give it as the second argument")
    return TargetError(
        f"`{target}` has no data set",
        code="no_dataset",
        facts=(_DATASET_NAMES,),
        hint="add `dataset = ...` to the file, or give `--input-shape 3,32,32` for memory and speed only",
    )

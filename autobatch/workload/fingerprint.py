"""What a session trains, as one digest for each part of it: the same in every process, until one changes.

Runs in the worker, where the user's objects are. Weights and samples count by shape and dtype, code by
what it does, files by their content.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import torch

from autobatch._version import __version__
from autobatch.workload import source_files
from autobatch.workload.mapped_samples import MappedSamples
from autobatch.workload.object_digest import Outline
from autobatch.workload.parts import Parts
from autobatch.workload.random_state import random_state_kept
from autobatch.workload.samples import Samples
from autobatch.workload.trainer import Trainer

# These are told by what was made of them.
_DIGESTED_APART = ("name", "dataset", "val_dataset", "optimizer")


def take(parts: Parts, samples: Samples, val_samples: Samples | None, trainer: Trainer) -> dict[str, str]:
    """The digests of `model`, `optimizer`, `samples`, `source`, `training` and `versions`.

    Reads a few samples, and leaves the random state as it was. Raises OSError where a file of the user's
    code can't be read.
    """
    modules: set[str] = set()
    found = {
        "model": Outline(modules).add_model(trainer.model).digest(),
        "optimizer": _of_optimizers(trainer, Outline(modules)),
        "samples": _of_samples(parts, samples, val_samples, Outline(modules)),
        "training": _of_training(parts, trainer, Outline(modules)),
        "versions": Outline(modules)
        .add([str(torch.__version__), __version__, source_files.of_package(), platform.python_version()])
        .digest(),
    }
    # Last, since the others have met the modules.
    found["source"] = Outline(modules).add(sorted(source_files.contents(modules).items())).digest()
    return found


def _of_optimizers(trainer: Trainer, outline: Outline) -> str:
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    for optimizer in trainer.optimizers:
        outline.add(type(optimizer)).add(_plain(optimizer.defaults))
        for group in optimizer.param_groups:
            outline.add("group").add(_plain(group))
            for parameter in group["params"]:
                outline.add(names.get(id(parameter), "")).add(parameter)
    return outline.digest()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's settings; those that are numbers in a tensor, such as `lr`, count by their value."""
    told = {name: value for name, value in sorted(settings.items()) if name != "params"}
    numbers = {n: v.item() for n, v in told.items() if isinstance(v, torch.Tensor) and v.numel() == 1}
    return {**told, **numbers}


def _of_samples(parts: Parts, samples: Samples, val_samples: Samples | None, outline: Outline) -> str:
    outline.add(parts.dataset).add(parts.val_dataset)
    for one in (samples, val_samples):
        if one is None:
            outline.add(None)
            continue
        outline.add(one.kind).add(one.size).add(one.synthetic)
        with random_state_kept():
            for batch in _batches(one):
                outline.add("sample")
                _add_shapes(batch, outline)
    return outline.digest()


def _batches(samples: Samples) -> list[Any]:
    """Batches of one sample: the first, the one in the middle, and the last; of a stream the first."""
    found = []
    # A sample that can't be read is told of when a batch needs it.
    with suppress(Exception):
        if isinstance(samples, MappedSamples) and samples.size:
            places = sorted({0, samples.size // 2, samples.size - 1})
            found += [samples.rows([place]) for place in places]
        else:
            found.append(samples.batch(1, 0))
    return found


def _add_shapes(batch: Any, outline: Outline) -> None:
    """The structure of a batch with the shapes and dtypes in it; what else it holds is data."""
    if isinstance(batch, dict):
        outline.add("dict")
        for name, part in batch.items():
            outline.add(str(name))
            _add_shapes(part, outline)
    elif isinstance(batch, (list, tuple)):
        outline.add(type(batch).__name__)
        for part in batch:
            _add_shapes(part, outline)
    elif hasattr(batch, "shape") and hasattr(batch, "dtype"):
        outline.add(str(batch.dtype)).add(str(tuple(batch.shape)))
    else:
        outline.add(type(batch).__name__)


def _of_training(parts: Parts, trainer: Trainer, outline: Outline) -> str:
    """The user's functions, their present size, epochs, schedule, and what was inferred."""
    for field in sorted(field.name for field in fields(parts)):
        ready = field == "model" and parts.ready_model is not None
        if field not in _DIGESTED_APART and not ready:
            outline.add(field).add(getattr(parts, field))
    # How many samples were looked at is a matter of time.
    return outline.add(replace(trainer.describe(), sizes=None)).digest()

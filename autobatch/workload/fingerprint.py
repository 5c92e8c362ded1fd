"""The fingerprint of a training: a digest of each part, the same in every process until the part changes.

Runs in the worker, where the user's objects are. Weights and samples count by shape and dtype, code by its
bytecode, files by their content.
"""

from __future__ import annotations

import platform
from array import array
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from autobatch._version import __version__
from autobatch.workload import source_files
from autobatch.workload.mapped_samples import MappedSamples
from autobatch.workload.object_digest import ObjectDigest
from autobatch.workload.parts import Parts
from autobatch.workload.random_state import random_state_kept
from autobatch.workload.samples import Samples
from autobatch.workload.trainer import Trainer

# These have digests of the objects that were made of them.
_DIGESTED_APART = ("name", "dataset", "val_dataset", "sampler", "val_sampler", "optimizer")


def take(
    parts: Parts,
    samples: Samples,
    val_samples: Samples | None,
    trainer: Trainer,
    modules: set[str] | None = None,
) -> dict[str, str]:
    """The digests of `model`, `optimizer`, `samples`, `source`, `training` and `versions`.

    Reads a few samples, and leaves the random state as it was. `modules` gets the names of the modules of the
    code. Raises OSError where a file of the user's code can't be read.
    """
    modules = set() if modules is None else modules
    digests = {
        "model": ObjectDigest(modules).add_model(trainer.model).hexdigest(),
        "optimizer": _of_optimizers(trainer, ObjectDigest(modules)),
        "samples": _of_samples(parts, samples, val_samples, ObjectDigest(modules)),
        "training": _of_training(parts, trainer, ObjectDigest(modules)),
        "versions": ObjectDigest(modules)
        .add([str(torch.__version__), __version__, source_files.of_package(), platform.python_version()])
        .hexdigest(),
    }
    # Last, since the other digests collect the modules.
    digests["source"] = ObjectDigest(modules).add(sorted(source_files.contents(modules).items())).hexdigest()
    return digests


def of_arguments(parts: Parts) -> str:
    """The digest of parts before a worker has them; empty where they can't be digested completely.

    Weights count by shape and dtype, the rest by content. No code of the parts runs.
    """
    digest = ObjectDigest(set(), whole=True)
    optimizer = parts.optimizer if isinstance(parts.optimizer, torch.optim.Optimizer) else None
    try:
        for field in sorted(field.name for field in fields(parts)):
            digest.add(field).add(None if field == "optimizer" and optimizer else getattr(parts, field))
        if optimizer is not None and parts.ready_model is not None:
            _add_optimizers(parts.ready_model, [optimizer], digest)
    # An object of the user's may raise anything while it is looked into.
    except Exception:
        return ""
    return digest.hexdigest()


def _add_optimizers(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], digest: ObjectDigest
) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        digest.add(type(optimizer)).add(_plain(optimizer.defaults))
        for group in optimizer.param_groups:
            digest.add("group").add(_plain(group))
            for parameter in group["params"]:
                digest.add(names.get(id(parameter), "")).add_shape(parameter)


def _of_optimizers(trainer: Trainer, digest: ObjectDigest) -> str:
    _add_optimizers(trainer.model, trainer.optimizers, digest)
    return digest.hexdigest()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's settings. A number in a tensor, such as `lr`, counts by its value."""
    plain = {name: value for name, value in sorted(settings.items()) if name != "params"}
    numbers = {n: v.item() for n, v in plain.items() if isinstance(v, torch.Tensor) and v.numel() == 1}
    return {**plain, **numbers}


def _of_samples(parts: Parts, samples: Samples, val_samples: Samples | None, digest: ObjectDigest) -> str:
    digest.add(parts.dataset).add(parts.val_dataset)
    for source in (samples, val_samples):
        if source is None:
            digest.add(None)
            continue
        digest.add(source.kind).add(source.size).add(source.synthetic)
        digest.add(bytes(source.keys) if isinstance(source.keys, array) else source.keys)
        with random_state_kept():
            for batch in _batches(source):
                digest.add("sample")
                _add_shapes(batch, digest)
    return digest.hexdigest()


def _batches(samples: Samples) -> list[Any]:
    """Batches of one sample: the first, the middle and the last sample; of a stream the first."""
    batches = []
    # A sample that can't be read is an error only when a batch needs it.
    with suppress(Exception):
        if isinstance(samples, MappedSamples) and samples.size:
            places = sorted({0, samples.size // 2, samples.size - 1})
            batches += [samples.rows([place]) for place in places]
        else:
            batches.append(samples.batch(1, 0))
    return batches


def _add_shapes(batch: Any, digest: ObjectDigest) -> None:
    """Adds the structure of a batch with its shapes and dtypes. Its values are data, and don't count."""
    if isinstance(batch, dict):
        digest.add("dict")
        for name, part in batch.items():
            digest.add(str(name))
            _add_shapes(part, digest)
    elif isinstance(batch, (list, tuple)):
        digest.add(type(batch).__name__)
        for part in batch:
            _add_shapes(part, digest)
    elif hasattr(batch, "shape") and hasattr(batch, "dtype"):
        digest.add(str(batch.dtype)).add(str(tuple(batch.shape)))
    else:
        digest.add(type(batch).__name__)


def _of_training(parts: Parts, trainer: Trainer, digest: ObjectDigest) -> str:
    """The digest of functions, current batch size, epochs, schedule and inferred parts."""
    for field in sorted(field.name for field in fields(parts)):
        ready = field == "model" and parts.ready_model is not None
        if field not in _DIGESTED_APART and not ready:
            digest.add(field).add(getattr(parts, field))
    # The number of scanned samples depends on the time that a scan takes.
    return digest.add(replace(trainer.describe(), sizes=None)).hexdigest()

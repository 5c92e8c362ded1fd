"""Sends the parts of a training to a worker, through a private file that no crash leaves behind."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import cloudpickle
import torch
from torch.utils.data import DataLoader

from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.formatting import format_bytes
from autobatch.workload import compilation
from autobatch.workload.data_loader import check_loader, settings_of
from autobatch.workload.keras import detection
from autobatch.workload.keras.archive import Archive
from autobatch.workload.lightning.detection import detached, frameworks_of
from autobatch.workload.parts import Parts, check_model
from autobatch.workload.sampling import batch_size_of, sampler_of
from autobatch.workload.user_errors import describe_error

# How deep an attribute that can't be pickled is looked for.
_MAX_DEPTH = 4
# The arguments of `find` that may be functions, and the beginning of the hint for each.
_FUNCTIONS = {
    "model": "pass a function that makes it (`find(lambda: Net(), ...)`), or ",
    "dataset": "pass a function that makes it (`find(model, lambda: Images(path))`), or ",
    "val_dataset": "pass a function that makes it (`val_dataset=lambda: Images(path)`), or ",
    "optimizer": "pass a function of the parameters (`optimizer=lambda params: SGD(params, lr=0.1)`), or ",
}
# The attribute in which a module keeps its children, which people write as `model.body`.
_SUBMODULE = re.compile(r"\._modules\['(\w+)'\]")


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends compiled modules so that they are compiled again."""

    def reducer_override(self, value: Any) -> Any:
        return compilation.reduced(value) or super().reducer_override(value)


# torch.save takes a module with a name and a Pickler.
_PICKLE: Any = SimpleNamespace(__name__=cloudpickle.__name__, Pickler=_Pickler)


def sendable(parts: Parts) -> Parts:
    """The same parts as another process can get them: DataLoaders taken apart, a Keras model as archive.

    Raises TargetError for data and for Keras models that can't be measured.
    """
    dataset, loader = detached(parts.dataset), parts.loader
    collate_fn, batch_size, sampler = parts.collate_fn, parts.batch_size, parts.sampler
    if isinstance(dataset, DataLoader):
        check_loader(dataset)
        loader, sampler = settings_of(dataset), sampler_of(dataset)
        collate_fn = collate_fn or dataset.collate_fn
        batch_size = parts.batch_size_with(batch_size_of(dataset))
        dataset = dataset.dataset
    val_dataset, val_collate_fn = detached(parts.val_dataset), parts.val_collate_fn
    val_sampler = parts.val_sampler
    if isinstance(val_dataset, DataLoader):
        check_loader(val_dataset)
        val_collate_fn, val_sampler = val_dataset.collate_fn, sampler_of(val_dataset)
        val_dataset = val_dataset.dataset
    detection.refuse_batches(dataset)
    detection.refuse_batches(val_dataset)
    detection.refuse_other_backend(parts.model)
    return replace(
        parts,
        model=Archive(parts.model) if detection.is_model(parts.model) else parts.model,
        dataset=dataset,
        loader=loader,
        sampler=sampler,
        val_sampler=val_sampler,
        collate_fn=collate_fn,
        batch_size=batch_size,
        val_dataset=val_dataset,
        val_collate_fn=val_collate_fn,
    )


def slow_frameworks(parts: Parts) -> tuple[str, ...]:
    """The names of the frameworks that model and data need, and that take seconds to import."""
    keras = ("keras",) if detection.is_model(parts.model) else ()
    return (*frameworks_of(parts.model, parts.dataset), *keras)


@contextmanager
def packed(objects: Parts | Mapping[str, Any]) -> Iterator[str]:
    """The path of a private file with the pickled `objects`, for as long as the context lasts.

    They are one pickle, so that an optimizer keeps its parameters. The caller's objects are only read.
    Raises UsageError where an object can't be pickled, naming the attribute at fault, and AutobatchError
    where the file can't be written.
    """
    # On Linux a TemporaryFile has no name, so that not even SIGKILL leaves it behind.
    make = tempfile.TemporaryFile if sys.platform == "linux" else tempfile.NamedTemporaryFile
    with make(prefix="autobatch-", suffix=".pt") as file:
        try:
            torch.save(objects, file, pickle_module=_PICKLE)
            file.flush()
        except Exception as error:
            raise _not_sendable(_by_name(objects), error) from None
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}" if sys.platform == "linux" else file.name


def unpacked(path: str) -> Any:
    """The objects that were packed, on the CPU. The file was written by this user's own process."""
    return torch.load(path, map_location="cpu", weights_only=False)


def unpacked_parts(path: str) -> Parts:
    """The parts that were packed, with the data that a function makes. Raises TargetError for a bad model.

    Raises the errors of such a function.
    """
    parts: Parts = unpacked(path)
    check_model(parts.model, parts.name)
    dataset, val_dataset = _made(parts.dataset), _made(parts.val_dataset)
    if isinstance(dataset, DataLoader):
        check_loader(dataset)
        batch_size = parts.batch_size or batch_size_of(dataset)
        parts = replace(parts, loader=settings_of(dataset), batch_size=batch_size)
    return replace(parts, dataset=dataset, val_dataset=val_dataset)


def _made(data: Any) -> Any:
    """The data set that a function returns; other data unchanged."""
    return data() if isinstance(data, (FunctionType, partial)) else data


def _by_name(objects: Parts | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(objects, Parts):
        return {field.name: getattr(objects, field.name) for field in fields(objects)}
    return objects


def _not_sendable(objects: Mapping[str, Any], error: Exception) -> AutobatchError:
    culprit = next((name for name, value in objects.items() if not _pickles(value)), "")
    if not culprit:
        folder = tempfile.gettempdir()
        return AutobatchError(
            "the model and its data can't be written to a file for the worker process",
            code="cannot_write",
            facts=(
                describe_error(error),
                f"{format_bytes(shutil.disk_usage(folder).free)} are free in `{folder}`",
            ),
            hint="free space there, or set `TMPDIR` to another folder",
        )
    place = _SUBMODULE.sub(r".\1", _inner_culprit(objects[culprit], culprit, _MAX_DEPTH))
    return UsageError(
        f"`{culprit}` can't be sent to the worker process",
        code="not_picklable",
        facts=(f"`{place}`: {describe_error(error)}",),
        hint=f"{_FUNCTIONS.get(culprit, '')}put it into a file and run `autobatch probe file.py`",
    )


def _inner_culprit(value: Any, path: str, depth: int) -> str:
    """The path of the deepest attribute or item that can't be pickled."""
    if depth == 0:
        return path
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        children = [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        children = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    elif hasattr(value, "__dict__"):
        children = [(f"{path}.{key}", item) for key, item in vars(value).items()]
    for name, child in children:
        if not _pickles(child):
            return _inner_culprit(child, name, depth - 1)
    return path


def _pickles(value: Any) -> bool:
    try:
        torch.save(value, io.BytesIO(), pickle_module=_PICKLE)
    except Exception:
        return False
    return True

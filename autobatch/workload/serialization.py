"""Sends the objects of a `find` call to a worker, through a private file that nothing outlives."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.formatting import format_bytes
from autobatch.workload import compilation
from autobatch.workload.keras import detection
from autobatch.workload.keras.archive import Archive
from autobatch.workload.target import Parts, told

_MAX_DEPTH = 4
# Where a module keeps its children; people write `model.body`.
_SUBMODULE = re.compile(r"\._modules\['(\w+)'\]")


@contextmanager
def packed(parts: dict[str, Any]) -> Iterator[str]:
    """The path of a private file with the pickled `parts`, for as long as the context lasts.

    They are one pickle, so that an optimizer keeps its parameters. The caller's objects are only read.
    Raises UsageError where a part can't be pickled, naming the attribute at fault, AutobatchError where the
    file can't be written, and TargetError for a part of Keras that can't be measured.
    """
    import torch

    parts = _with_keras(parts)
    # On Linux a TemporaryFile has no name, so that not even SIGKILL leaves it behind.
    make = tempfile.TemporaryFile if sys.platform == "linux" else tempfile.NamedTemporaryFile
    with make(prefix="autobatch-", suffix=".pt") as file:
        try:
            torch.save(parts, file, pickle_module=_pickling())
            file.flush()
        except Exception as error:
            raise _not_sendable(parts, error) from None
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}" if sys.platform == "linux" else file.name


def _with_keras(parts: dict[str, Any]) -> dict[str, Any]:
    """The same parts, a Keras model among them as its archive."""
    detection.refuse_batches(parts.get("dataset"))
    detection.refuse_batches(parts.get("val_dataset"))
    detection.refuse_other_backend(parts.get("model"))
    return {**parts, "model": Archive(parts["model"])} if detection.is_model(parts.get("model")) else parts


def unpack(path: str) -> Parts:
    """The parts of a `find` call, in the worker."""
    from autobatch.workload.target import parts_from_objects

    return parts_from_objects(unpack_objects(path))


def unpack_objects(path: str) -> dict[str, Any]:
    """What was packed, in a child on the CPU. The file was written by this user's own process."""
    import torch

    objects: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return objects


def _not_sendable(parts: dict[str, Any], error: Exception) -> AutobatchError:
    culprit = next((name for name, part in parts.items() if not _pickles(part)), "")
    if not culprit:
        folder = tempfile.gettempdir()
        return AutobatchError(
            "the model and its data can't be written to a file for the worker process",
            code="cannot_write",
            facts=(told(error), f"{format_bytes(shutil.disk_usage(folder).free)} are free in `{folder}`"),
            hint="free space there, or set `TMPDIR` to another folder",
        )
    place = _SUBMODULE.sub(r".\1", _inner_culprit(parts[culprit], culprit, _MAX_DEPTH))
    return UsageError(
        f"`{culprit}` can't be sent to the worker process",
        code="not_picklable",
        facts=(f"`{place}`: {told(error)}",),
        hint="pass a function that makes it (`find(lambda: Net(), ...)`), or put it into a file and run "
        "`autobatch probe file.py`",
    )


def _inner_culprit(value: Any, path: str, depth: int) -> str:
    """The deepest attribute or item that alone can't be pickled."""
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
    import torch

    try:
        torch.save(value, io.BytesIO(), pickle_module=_pickling())
    except Exception:
        return False
    return True


def _pickling() -> Any:
    """cloudpickle, with compiled modules sent so that they are compiled again; what torch.save takes."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            return compilation.reduced(value) or super().reducer_override(value)

    return SimpleNamespace(__name__=cloudpickle.__name__, Pickler=Pickler)

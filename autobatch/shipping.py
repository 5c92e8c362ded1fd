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
from typing import Any

from autobatch.errors import AutobatchError, UsageError
from autobatch.formatting import format_bytes
from autobatch.targets import Parts, told

_MAX_DEPTH = 4
# Where a module keeps its children; people write `model.body`.
_SUBMODULE = re.compile(r"\._modules\['(\w+)'\]")


@contextmanager
def packed(parts: dict[str, Any]) -> Iterator[str]:
    """The path of a private file with the pickled `parts`, for as long as the context lasts.

    They are one pickle, so that an optimizer keeps its parameters. The caller's objects are only read.
    Raises UsageError where a part can't be pickled, naming the attribute at fault, and AutobatchError where
    the file can't be written.
    """
    import cloudpickle
    import torch

    # On Linux a TemporaryFile has no name, so that not even SIGKILL leaves it behind.
    make = tempfile.TemporaryFile if sys.platform == "linux" else tempfile.NamedTemporaryFile
    with make(prefix="autobatch-", suffix=".pt") as file:
        try:
            torch.save(parts, file, pickle_module=cloudpickle)
            file.flush()
        except Exception as error:
            raise _not_sendable(parts, error) from None
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}" if sys.platform == "linux" else file.name


def unpack(path: str) -> Parts:
    """The parts of a `find` call, in the worker. The file was written by this user's own process."""
    import torch

    from autobatch.targets import parts_from_objects

    objects = torch.load(path, map_location="cpu", weights_only=False)
    return parts_from_objects(objects)


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
    import cloudpickle
    import torch

    try:
        torch.save(value, io.BytesIO(), pickle_module=cloudpickle)
    except Exception:
        return False
    return True

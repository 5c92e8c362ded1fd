"""Models under torch.compile: detection, compilation ahead of timing, and the way to another process.

Compiled code belongs to its process, so a model is sent without it and compiled again where it arrives.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autobatch.devices import torch_internals
from autobatch.records.errors import message_of

if TYPE_CHECKING:
    from torch import nn

# The names of the phases between which a worker's time does not count as a trial's.
BEGINS, ENDS = "compile", "compiled"
# After 8 compilations torch runs new sizes uncompiled, without an error. A search tries more sizes.
_MOST_COMPILATIONS = 256
# Each pass compiles more. A model that compiles anew in every step is not waited for.
_MOST_PASSES = 4
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_FOLDER_PREFIX = "autobatch-compiled-"


def is_compiled(model: nn.Module) -> bool:
    """True where the model or a part of it runs as compiled code."""
    return any(
        torch_internals.is_compiled_wrapper(part) or torch_internals.compiled_call(part) is not None
        for part in model.modules()
    )


def inner(model: nn.Module) -> nn.Module:
    """The model that torch.compile was given; the model itself where it was not wrapped."""
    while torch_internals.is_compiled_wrapper(model):
        model = torch_internals.wrapped_module(model)
    return model


def name_of(model: nn.Module) -> str:
    """The class of a model, followed by `(compiled)` for a compiled model."""
    return type(inner(model)).__name__ + (" (compiled)" if is_compiled(model) else "")


def lift_limits() -> None:
    """Lets this process compile for as many batch sizes as a search tries."""
    torch_internals.allow_compilations(_MOST_COMPILATIONS, 8 * _MOST_COMPILATIONS)


def repeat_while_compiling(step: Callable[[], object]) -> None:
    """Repeats a step until it compiles nothing any more."""
    for _ in range(_MOST_PASSES):
        before = torch_internals.compiled_frames()
        step()
        if torch_internals.compiled_frames() == before:
            return


def lacks_compiler(error: BaseException) -> bool:
    """True for the error of torch.compile where no C++ compiler is installed."""
    return "InvalidCxxCompiler" in f"{type(error).__name__}: {message_of(error)}"


def cache_folder() -> dict[str, str]:
    """The environment variable that gives compiled files a folder for this search alone.

    Empty where the user has set a folder, which is used then, and kept.
    """
    if _FOLDER in os.environ:
        return {}
    return {_FOLDER: os.path.join(tempfile.gettempdir(), _FOLDER_PREFIX + secrets.token_hex(8))}


def remove_cache_folder(environment: Mapping[str, str]) -> None:
    """Removes the folder that `cache_folder` named, if torch has made it."""
    folder = environment.get(_FOLDER, "")
    if os.path.basename(folder).startswith(_FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def reduced(value: object) -> tuple[Any, ...] | None:
    """The instructions for pickle to send a compiled module (see object.__reduce__); None for other objects.

    Raises TypeError for a module that can't be sent so that it is compiled again.
    """
    if torch_internals.is_compiled_wrapper(value):
        return _compile, (torch_internals.wrapped_module(value), torch_internals.compile_settings(value))
    call = torch_internals.compiled_call(value)
    if call is None:
        return None
    parts: Any = value.__reduce_ex__(2)
    if len(parts) < 3 or any(part is not None for part in parts[3:]):
        raise TypeError(f"a {type(value).__name__} that was compiled in place pickles itself")
    make, arguments, state = parts[:3]
    return make, arguments, (state, torch_internals.compile_settings(call)), None, None, _restore_compiled


def _compile(model: nn.Module, settings: dict[str, Any]) -> Any:
    import torch

    return torch.compile(model, **settings)


def _restore_compiled(model: Any, state: tuple[Any, dict[str, Any]]) -> None:
    model.__setstate__(state[0])
    model.compile(**state[1])

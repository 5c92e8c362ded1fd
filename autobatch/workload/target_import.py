"""Imports the file or the module that a target names.

Runs in the worker only: importing a model file runs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from autobatch.records.errors import AutobatchError, TargetError, missing_file
from autobatch.workload.import_guard import training_refused
from autobatch.workload.user_errors import describe_error, exit_error, location_of


def import_target(path: str, arguments: Sequence[str] = ()) -> ModuleType:
    """The module of a file or a dotted name, imported with `arguments` in `sys.argv`.

    Raises TargetError where it is missing, raises, exits or trains.
    """
    sys.argv = [path, *arguments]
    try:
        with training_refused(_command_of(path, arguments)):
            return _import_file(Path(path)) if _is_file(path) else _import_module(path)
    except AutobatchError:
        raise
    except SystemExit as stopped:
        raise exit_error(f"`{path}`", "it was imported", stopped) from None
    # A file may raise no Exception: `pytest.skip` and the like derive from BaseException.
    except BaseException as error:
        raise TargetError(
            f"`{path}` raised an error while it was imported",
            code="target_raises",
            facts=(describe_error(error), *location_of(error)),
            hint=_import_hint(path, error),
        ) from None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise missing_file(path)
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        raise TargetError(
            f"`{path}` has the name of a module that is in use",
            code="name_taken",
            facts=(f"`import {name}` means another module already",),
            hint=f"rename the file, for example to `{name}_model.py`",
        )
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise TargetError(
            f"`{path}` is not a Python file", code="not_python", hint="give a file that ends in `.py`"
        )
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(
            f"`{name}` is neither a file nor a module",
            code="no_module",
            hint="give `file.py`, `file.py:model` or `pkg.module:model`",
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(
                f"there is no module `{name}`",
                code="no_module",
                facts=("looked in the current folder and in what is installed",),
                hint="check the name, or give the path of a file, such as `model.py`",
            ) from None
        raise


def _import_hint(path: str, error: BaseException) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        module = ".".join(Path(path).with_suffix("").parts)
        return f"name it as a module of its package, such as `autobatch probe {module}`"
    if isinstance(error, ModuleNotFoundError):
        return f"autobatch runs in `{sys.executable}`: install the module there"
    return f"run `{_command_of(path, ())}` to see the whole error"


def _command_of(path: str, arguments: Sequence[str]) -> str:
    """The command that runs a target by itself."""
    words = [path, *arguments] if _is_file(path) else ["-m", path, *arguments]
    return f"python {shlex.join(words)}"


def _is_file(path: str) -> bool:
    """True where a target names a file rather than a module."""
    return path.endswith(".py") or os.sep in path

"""Watches torch in every Python of a measured command; then runs the user's own sitecustomize.

Python imports this file at its start, since its folder is the first of PYTHONPATH. It imports nothing of
autobatch by name: the command may run in an environment that has no autobatch.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType

_HERE = os.path.dirname(os.path.abspath(__file__))
_CHILD = os.path.join(os.path.dirname(_HERE), "child")
_NAME = "_autobatch_child"


def _load(name: str, file: str, *, package: str | None = None) -> ModuleType:
    folders = None if package is None else [package]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise ImportError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _run_users_own() -> None:
    """Run the sitecustomize that this file hides, as Python would have."""
    for folder in sys.path:
        file = os.path.join(folder, "sitecustomize.py")
        if os.path.isfile(file) and os.path.abspath(folder) != _HERE:
            _load("sitecustomize", file)
            return


if "AUTOBATCH_SCRIPT" in os.environ:
    _load(_NAME, os.path.join(_CHILD, "__init__.py"), package=_CHILD)
    importlib.import_module(f"{_NAME}.start").start()
_run_users_own()

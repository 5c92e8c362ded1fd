"""autobatch: finds the batch size to train with, by measuring it before the training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autobatch._version import __version__
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation, render_in_notebooks_by

if TYPE_CHECKING:
    from autobatch.api import find, plan
    from autobatch.storage.result_files import load, save
    from autobatch.workload.data_loader import rebuild

__all__ = [
    "AutobatchError",
    "Limits",
    "Recommendation",
    "__version__",
    "find",
    "load",
    "plan",
    "rebuild",
    "save",
]

_LATE = {
    "find": "autobatch.api",
    "load": "autobatch.storage.result_files",
    "plan": "autobatch.api",
    "rebuild": "autobatch.workload.data_loader",
    "save": "autobatch.storage.result_files",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Imports what measures only when it is used, so that `import autobatch` is quick."""
    if name not in _LATE:
        raise AttributeError(f"module 'autobatch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)


def _render_in_notebook(recommendation: Recommendation) -> str:
    """Imports the reports only when a notebook shows an answer."""
    from importlib import import_module

    shown: str = import_module("autobatch.reports.html.notebook").render(recommendation)
    return shown


# Here, since this package is loaded before any of its rooms: every answer has it, wherever it comes from.
render_in_notebooks_by(_render_in_notebook)

"""autobatch: finds the batch size to train with, by measuring it before the training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autobatch._version import __version__
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation, show_by

if TYPE_CHECKING:
    from autobatch.api import find, plan
    from autobatch.decision.recommender import decide_again as recommend
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
    "recommend",
    "save",
]

_LATE = {
    "find": ("autobatch.api", "find"),
    "load": ("autobatch.storage.result_files", "load"),
    "plan": ("autobatch.api", "plan"),
    "rebuild": ("autobatch.workload.data_loader", "rebuild"),
    "recommend": ("autobatch.decision.recommender", "decide_again"),
    "save": ("autobatch.storage.result_files", "save"),
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public function at its first use, so that `import autobatch` is fast."""
    if name not in _LATE:
        raise AttributeError(f"module 'autobatch' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LATE[name]
    return getattr(import_module(module), attribute)


def _render_in_notebook(recommendation: Recommendation) -> str:
    """Imports the reports only when a notebook shows an answer."""
    from importlib import import_module

    shown: str = import_module("autobatch.reports.html.notebook").render(recommendation)
    return shown


def _render_as_text(recommendation: Recommendation) -> str:
    """Imports the reports only when an answer is printed."""
    from importlib import import_module

    shown: str = import_module("autobatch.reports.text.answer").summary(recommendation)
    return shown


def _plot(recommendation: Recommendation, axes: Any) -> Any:
    """Imports the reports only when an answer is plotted."""
    from importlib import import_module

    return import_module("autobatch.reports.plot").draw(recommendation, axes)


# Here, since this package is loaded before any of its rooms: every answer has them, wherever it comes from.
show_by(text=_render_as_text, notebook=_render_in_notebook, plot=_plot)

"""autobatch: finds the batch size to train with, by measuring it before the training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autobatch._version import __version__
from autobatch.errors import AutobatchError
from autobatch.records import Limits, Recommendation

if TYPE_CHECKING:
    from autobatch.api import find
    from autobatch.saved import load, save

__all__ = ["AutobatchError", "Limits", "Recommendation", "__version__", "find", "load", "save"]

_LATE = {"find": "autobatch.api", "load": "autobatch.saved", "save": "autobatch.saved"}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Imports what measures only when it is used, so that `import autobatch` is quick."""
    if name not in _LATE:
        raise AttributeError(f"module 'autobatch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)

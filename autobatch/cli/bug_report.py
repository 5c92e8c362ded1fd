"""The error for an exception that no code of autobatch foresees."""

from __future__ import annotations

import platform
import traceback
from pathlib import Path

from autobatch._version import __version__
from autobatch.records.errors import AutobatchError

# Set to anything, it shows the traceback of a bug in autobatch.
TRACEBACK_VARIABLE = "AUTOBATCH_TRACEBACK"
_PACKAGE = str(Path(__file__).parents[1])


def error_of(bug: Exception) -> AutobatchError:
    """Return the error that names the bug, its place in autobatch, and the versions."""
    frames = traceback.extract_tb(bug.__traceback__)
    last = [frame for frame in frames if frame.filename.startswith(_PACKAGE)][-1]
    place = f"at autobatch{last.filename[len(_PACKAGE) :]}:{last.lineno}, in `{last.name}`"
    return AutobatchError(
        "this is a bug in autobatch",
        code="internal_error",
        facts=(
            f"{type(bug).__name__}: {bug}",
            place,
            f"autobatch {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ),
        hint=f"please report it with the output of `{TRACEBACK_VARIABLE}=1` before this message",
    )

"""The command of a Python process that runs autobatch, and imports nothing from the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
# A user's `random.py` in the current folder would break imports. Python 3.10 has no -P against that;
# -P also reaches the processes that the program spawns.
_FLAGS = ("-P",) if sys.version_info >= (3, 11) else ()
_BOOT = f"import sys; sys.path[:] = [*filter(None, sys.path), {_PACKAGE_PARENT!r}]; "


def python_command(program: str, *arguments: str) -> list[str]:
    """The command that runs `program`, in which `sys` is imported and autobatch can be."""
    return [sys.executable, *_FLAGS, "-c", _BOOT + program, *arguments]

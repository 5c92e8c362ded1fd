"""Errors of the user's own code, described by their message and their place in that code."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from autobatch.records.errors import AutobatchError, TargetError, message_of

# Longer messages, such as those with a whole tensor in them, are cut.
_LONGEST_MESSAGE = 2000
# The exit status of argparse and click where arguments are missing.
_WRONG_USAGE = 2
_PACKAGE = str(Path(__file__).resolve().parents[1])


def describe_error(error: BaseException) -> str:
    """`Type: message`, with the first line of the message only, cut where it is too long to read.

    An error of autobatch is its message and its first fact, which is the cause in the user's code.
    """
    if isinstance(error, AutobatchError):
        parts = (error.message, *error.facts[:1])
    else:
        parts = (type(error).__name__, message_of(error))
    text = ": ".join(line for part in parts for line in part.strip().splitlines()[:1])
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def location_of(error: BaseException) -> tuple[str, ...]:
    """The fact `at file.py:12` for the innermost line of the user's code; empty for an error elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if not _is_library(frame.filename)]
    return (f"at {Path(lines[-1].filename).name}:{lines[-1].lineno}",) if lines else ()


def exit_error(name: str, during: str, stopped: SystemExit) -> TargetError:
    """The error for a target that ends the process."""
    guard = 'put what should run only as a script under `if __name__ == "__main__":`'
    wants_arguments = stopped.code == _WRONG_USAGE
    return TargetError(
        f"{name} called `sys.exit` while {during}",
        code="target_exits",
        facts=(f"exit status: {stopped.code}", *location_of(stopped)),
        hint=f"give the arguments that it needs after `--`, or {guard}" if wants_arguments else guard,
    )


def _is_library(filename: str) -> bool:
    inside = filename.startswith(_PACKAGE) and f"{os.sep}examples{os.sep}" not in filename
    return (
        inside
        or filename.startswith("<")
        or "site-packages" in filename
        or f"{os.sep}lib{os.sep}python" in filename
    )

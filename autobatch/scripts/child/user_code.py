"""The user's own code and files, as opposed to those of Python, of installed packages and of these hooks."""

from __future__ import annotations

import os
import sysconfig
from typing import Any

_HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_LIBRARIES = tuple({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")})


def is_users(file: str) -> bool:
    """True for a file of the user's own: neither installed nor of these hooks."""
    if file.startswith("<") or "site-packages" in file or "dist-packages" in file:
        return False
    return not os.path.realpath(file).startswith((*_LIBRARIES, _HERE))


def user_frame(frame: Any) -> Any:
    """The innermost frame that is the user's code; None where there is none."""
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return frame

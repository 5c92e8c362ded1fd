"""`enum.StrEnum`, which Python 3.10 does not have."""

from __future__ import annotations

import sys

__all__ = ["StrEnum"]

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """Members that are strings: `str()` and format give the value, as in Python 3.11."""

        __str__ = str.__str__

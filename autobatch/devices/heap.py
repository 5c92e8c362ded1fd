"""The heap of this process, as the C library counts it: blocks in use, without the free ones between them."""

from __future__ import annotations

import ctypes
from functools import cache


class _Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns; see its manual page. All in bytes or blocks."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def allocated_bytes() -> int | None:
    """Bytes of the blocks in use, mapped blocks included; None without glibc 2.33 or later."""
    read = _mallinfo2()
    if read is None:
        return None
    info = read()
    return int(info.uordblks) + int(info.hblkhd)


@cache
def _mallinfo2() -> ctypes._NamedFuncPointer | None:
    try:
        read = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    read.restype = _Mallinfo
    return read

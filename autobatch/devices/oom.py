"""One classifier for everything that a training step can raise.

Types first, then text: the wording differs by vendor, release and platform (the messages below were
collected from torch, cuDNN, cuBLAS, HIP, XPU, MPS and the C++ runtime).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from autobatch.records.errors import message_of
from autobatch.records.formatting import format_bytes

_OUT_OF_MEMORY = (
    "out of memory",
    "out of device memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
    "invalid buffer size",
    "bad_alloc",
    "could not create a memory object",
)
# What a collective raises where a rank has gone, or does not come.
_PEER = (
    "gloo/transport",
    "connection closed by peer",
    "connection reset by peer",
    "nccl",
    "processgroup",
)
# Libraries report a failed workspace allocation with these, but a plain misuse as well.
_SUSPECTED = (
    "cudnn_status_not_supported",
    "cudnn_status_internal_error",
    "unable to find an engine",
    "cufft_internal_error",
    "cublas_status_not_initialized",
    "could not create a primitive",
)
_SIZE_LIMIT = (
    "canuse32bitindexmath",
    "32-bit index math",
    "invalid configuration argument",
    "too many resources requested for launch",
    "65535",
    "int_max",
    "integer out of range",
)


_ASKED = re.compile(r"tried to allocate (?P<number>[\d.]+) (?P<unit>bytes|[KMGT]iB)", re.IGNORECASE)
_FREE = re.compile(r"of which (?P<number>[\d.]+) (?P<unit>bytes|[KMGT]iB) is free", re.IGNORECASE)


class Cause(StrEnum):
    """Why a step failed. SUSPECTED is out of memory only if a smaller size passed. PEER: on another rank."""

    OUT_OF_MEMORY = "out_of_memory"
    PEER = "peer"
    SUSPECTED = "suspected"
    SIZE_LIMIT = "size_limit"
    USER_ERROR = "user_error"


def classify(error: BaseException) -> Cause:
    """The cause of a failed step, found in the exception or in what it was raised from."""
    return min((_classify_one(link) for link in _chain(error)), key=tuple(Cause).index)


def classify_text(text: str) -> Cause:
    """The cause that a message names, whatever its exception type was."""
    lowered = text.lower()
    for cause, marks in (
        (Cause.OUT_OF_MEMORY, _OUT_OF_MEMORY),
        (Cause.PEER, _PEER),
        (Cause.SUSPECTED, _SUSPECTED),
        (Cause.SIZE_LIMIT, _SIZE_LIMIT),
    ):
        if any(mark in lowered for mark in marks):
            return cause
    return Cause.USER_ERROR


def told_briefly(text: str) -> str:
    """`asked for 2.00 GiB, 1.20 GiB free` of an allocator's message; else the text itself."""
    asked = _ASKED.search(text)
    if asked is None:
        return text
    free = _FREE.search(text)
    return f"asked for {_size(asked)}" + (f", {_size(free)} free" if free else "")


def _size(found: re.Match[str]) -> str:
    number, unit = found["number"], found["unit"]
    return format_bytes(int(number)) if unit.lower() == "bytes" else f"{number} {unit}"


def _classify_one(error: BaseException) -> Cause:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Cause.OUT_OF_MEMORY
    # A user's own ValueError("... out of memory ...") is not the allocator speaking, but torch raises
    # plain RuntimeError (and subclasses) for almost everything, so only those and OSError are read.
    if isinstance(error, (RuntimeError, OSError)):
        return classify_text(message_of(error))
    return Cause.USER_ERROR


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        pending += [link.__cause__, link.__context__]

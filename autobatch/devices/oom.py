"""Classify any exception of a training step: out of memory, another rank's failure, or an error of the user.

Types come first, then texts, whose wording differs by vendor, release and platform. The marks below are from
messages of torch, cuDNN, cuBLAS, HIP, XPU, MPS and the C++ runtime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from autobatch.records.errors import message_of
from autobatch.records.formatting import format_bytes
from autobatch.records.str_enum import StrEnum

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
# Collectives raise these where another rank has ended or does not arrive.
_PEER = (
    "gloo/transport",
    "connection closed by peer",
    "connection reset by peer",
    "nccl",
    "processgroup",
)
# Libraries report a failed workspace allocation with these, and also plain misuse.
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
_REQUESTED = re.compile(r"tried to allocate (?P<number>[\d.]+) (?P<unit>bytes|[KMGT]iB)", re.IGNORECASE)
_FREE = re.compile(r"of which (?P<number>[\d.]+) (?P<unit>bytes|[KMGT]iB) is free", re.IGNORECASE)


class Cause(StrEnum):
    """Why a step failed. SUSPECTED means out of memory if a smaller size passed. PEER: another rank."""

    OUT_OF_MEMORY = "out_of_memory"
    PEER = "peer"
    SUSPECTED = "suspected"
    SIZE_LIMIT = "size_limit"
    USER_ERROR = "user_error"


def classify(error: BaseException) -> Cause:
    """The cause of a failed step, from the exception or from those that it was raised from."""
    return min((_classify_link(link) for link in _chain(error)), key=tuple(Cause).index)


def classify_text(text: str) -> Cause:
    """The cause that a message names, whatever the type of its exception."""
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


def shorten_message(text: str) -> str:
    """Shorten an allocator's message to `asked for 2.00 GiB, 1.20 GiB free`; return other texts unchanged."""
    requested = _REQUESTED.search(text)
    if requested is None:
        return text
    free = _FREE.search(text)
    return f"asked for {_size_text(requested)}" + (f", {_size_text(free)} free" if free else "")


def _size_text(size: re.Match[str]) -> str:
    number, unit = size["number"], size["unit"]
    return format_bytes(int(number)) if unit.lower() == "bytes" else f"{number} {unit}"


def _classify_link(error: BaseException) -> Cause:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Cause.OUT_OF_MEMORY
    # torch raises RuntimeError and its subclasses for almost everything, so the texts of these and of
    # OSError count. A user's ValueError("... out of memory ...") is not from an allocator.
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

"""A device as the worker sees it, and the processes that hold its memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUser:
    """A process that holds memory on a device. `memory_bytes` is None where the driver won't say."""

    pid: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device. `limit_bytes`: the memory that training may take; `limit_source`: where the limit is from."""

    kind: str
    index: int
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    uuid: str | None = None
    driver: str | None = None
    threads: int | None = None
    limit_bytes: int | None = None
    limit_source: str = ""
    utilisation: float | None = None
    memory_users: tuple[MemoryUser, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`cpu`, `mps`, or `cuda:0`."""
        return self.kind if self.kind in ("cpu", "mps") else f"{self.kind}:{self.index}"

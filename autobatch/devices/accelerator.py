"""Any device behind torch.accelerator: XPU, private backends, and the base class of CUDA and MPS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from autobatch.devices.base import Backend, Peak, limit_description, model_exceeds_limit
from autobatch.records.device import Device
from autobatch.records.errors import DeviceError

_FREE = "the memory free on this device"


class AcceleratorBackend(Backend):
    """A device whose memory torch.accelerator counts.

    Raises DeviceError where torch has no such device. Subclasses override the readings (`_memory_info`,
    `_allocated_bytes`, `_reserved_bytes`, `_name`, `_notes`) that their device offers in another way.
    """

    def __init__(self, kind: str, index: int = 0) -> None:
        _require(kind, index)
        self.kind = kind
        self.index = index
        self._statistics = _memory_statistics(kind)
        self._rest_bytes = 0
        self._limit_bytes: int | None = None
        self._limit_source = _FREE

    @property
    def torch_device(self) -> str:
        return f"{self.kind}:{self.index}"

    def describe(self) -> Device:
        free_bytes, total_bytes = self._memory_info() or (None, None)
        limit_bytes = self._limit_bytes
        if limit_bytes is None and free_bytes is not None:
            limit_bytes = self._available_bytes(free_bytes)
        return Device(
            kind=self.kind,
            index=self.index,
            name=self._name(),
            total_bytes=total_bytes,
            free_bytes=free_bytes,
            limit_bytes=limit_bytes,
            limit_source=self._limit_source if limit_bytes is not None else "",
            utilisation=self.utilisation(),
            notes=self._notes(),
        )

    def warm_up(self) -> None:
        """Create the context and the matrix library's handle by one forward and one backward pass."""
        set_index = getattr(torch.accelerator, "set_device_index", None) or torch.accelerator.set_device_idx
        set_index(self.index)
        weight = torch.zeros(64, 64, device=self.torch_device, requires_grad=True)
        (weight @ weight).sum().backward()
        self.synchronize()

    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        """See Backend. The worker at rest is all that is allocated now, without `held_bytes`."""
        self._rest_bytes = max(0, self._allocated_bytes() - held_bytes)
        info = self._memory_info()
        available_bytes = None if info is None else self._available_bytes(info[0])
        limits = [int(fraction * size) for size in (limit_bytes, available_bytes) if size is not None]
        lowest = min(limits, default=None)
        by_option = limit_bytes is not None and lowest == int(fraction * limit_bytes)
        source = limit_description(fraction, "`--memory-limit`" if by_option else _FREE)
        if lowest is not None and lowest <= held_bytes:
            raise model_exceeds_limit(held_bytes, lowest, source)
        if lowest is not None and (limit_bytes is not None or fraction < 1):
            self._cap(lowest + self._rest_bytes, None if info is None else info[1])
        self._limit_bytes = lowest
        self._limit_source = source

    def synchronize(self) -> None:
        torch.accelerator.synchronize(self.index)

    def now(self) -> float:
        return time.perf_counter()

    def reset_peak(self) -> None:
        self._statistics.reset_peak_memory_stats(self.index)

    def peak(self) -> Peak:
        stats = self._statistics.memory_stats(self.index)
        return Peak(
            allocated_bytes=self._above_rest(stats.get("allocated_bytes.all.peak", 0)),
            reserved_bytes=self._above_rest(stats.get("reserved_bytes.all.peak", 0)),
        )

    def live_bytes(self) -> int:
        return self._allocated_bytes()

    def start_usage(self) -> None:
        """Do nothing: torch has no reading of utilisation for every accelerator."""

    def utilisation(self) -> float | None:
        return None

    def release(self) -> None:
        self._statistics.empty_cache()

    def _name(self) -> str:
        read_name = getattr(torch.get_device_module(self.kind), "get_device_name", None)
        return str(read_name(self.index)) if read_name is not None else self.kind

    def _notes(self) -> tuple[str, ...]:
        return ()

    def _memory_info(self) -> tuple[int, int] | None:
        """(free, total) bytes; None where neither torch nor the device's driver says."""
        read = getattr(torch.accelerator, "get_memory_info", None)
        read = read or getattr(torch.get_device_module(self.kind), "mem_get_info", None)
        if read is None:
            return None
        try:
            free_bytes, total_bytes = read(self.index)
        except RuntimeError:  # not every allocator implements the call
            return None
        return int(free_bytes), int(total_bytes)

    def _allocated_bytes(self) -> int:
        return int(self._statistics.memory_allocated(self.index))

    def _reserved_bytes(self) -> int:
        return int(self._statistics.memory_reserved(self.index))

    def _available_bytes(self, free_bytes: int) -> int:
        """Bytes that training may hold: the free bytes and those that the allocator has reserved for it."""
        return free_bytes + self._above_rest(self._reserved_bytes())

    def _above_rest(self, size_bytes: int) -> int:
        return max(0, size_bytes - self._rest_bytes)

    def _set_fraction(self) -> Callable[[float], None] | None:
        """The function that sets this process's share of the device's memory; None where torch has none.

        It is not part of torch.accelerator, but cuda, xpu and some private backends have it by this name.
        """
        setter = getattr(torch.get_device_module(self.kind), "set_per_process_memory_fraction", None)
        if setter is None:
            return None
        return lambda fraction: setter(fraction, self.index)

    def _cap(self, cap_bytes: int, total_bytes: int | None) -> None:
        """Let the allocator refuse requests that would exceed `cap_bytes`. Raises DeviceError if it can't."""
        setter = self._set_fraction()
        if setter is None or not total_bytes:
            raise DeviceError(
                f"autobatch can't enforce a memory limit on `{self.torch_device}`",
                code="no_memory_limit",
                facts=(f"torch {torch.__version__} can't limit memory on `{self.kind}`",),
                hint="leave out the memory limit, to use all memory that is free on the device",
            )
        setter(fraction_of(cap_bytes, total_bytes))


def fraction_of(cap_bytes: int, total_bytes: int) -> float:
    """The share of `total_bytes`, at most 1, that an allocator converts back to exactly `cap_bytes`.

    Allocators multiply and truncate. A share rounded down would lose a byte, and with it a whole block
    at the limit; the next larger float doesn't.
    """
    return min(1.0, math.nextafter(cap_bytes / total_bytes, math.inf))


def available_accelerator() -> torch.device | None:
    """The accelerator of this process; None where it has none or its driver doesn't start.

    torch 2.6 has no `current_accelerator(check_available=True)`.
    """
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def device_names() -> tuple[str, ...]:
    """The names of all devices of this process: each index of the accelerator, then `cpu`."""
    accelerator = available_accelerator()
    if accelerator is None:
        return ("cpu",)
    indices = range(torch.accelerator.device_count())
    return (*(f"{accelerator.type}:{index}" for index in indices), "cpu")


def _memory_statistics(kind: str) -> Any:
    """The module that counts the allocator's bytes: torch.accelerator from torch 2.9 on, else the device's.

    Both have the same calls, with the same keys.
    """
    return torch.accelerator if hasattr(torch.accelerator, "memory_stats") else torch.get_device_module(kind)


def _require(kind: str, index: int) -> None:
    """Raises DeviceError unless torch has device `index` of `kind`."""
    names = device_names()
    if f"{kind}:{index}" in names:
        return
    raise DeviceError(
        f"torch {torch.__version__} has no device `{kind}:{index}` on this machine",
        code="no_device",
        facts=(f"it has: {', '.join(f'`{name}`' for name in names)}",),
        hint="choose one of these with `--device`, or install a torch build for that device",
    )

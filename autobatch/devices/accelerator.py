"""Any device behind torch.accelerator: XPU, private backends, and the ground that CUDA and MPS stand on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from autobatch.devices.base import Backend, Peak, share_of
from autobatch.records.device import Device
from autobatch.records.errors import DeviceError
from autobatch.records.formatting import format_bytes

_FREE = "what is free on this device"


class AcceleratorBackend(Backend):
    """A device whose memory torch.accelerator counts.

    Raises DeviceError where torch has no such device. Subclasses replace the readings
    (`_memory_info`, `_allocated_bytes`, `_reserved_bytes`, `_name`, `_notes`) where a device has
    others.
    """

    def __init__(self, kind: str, index: int = 0) -> None:
        _require(kind, index)
        self.kind = kind
        self.index = index
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
        """Makes the context and the matrix library's handle, forward and backward, on this device."""
        torch.accelerator.set_device_index(self.index)
        weight = torch.zeros(64, 64, device=self.torch_device, requires_grad=True)
        (weight @ weight).sum().backward()
        self.synchronize()

    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        """See Backend. What the allocator gave out by now, `held_bytes` excepted, is the worker at rest."""
        self._rest_bytes = max(0, self._allocated_bytes() - held_bytes)
        info = self._memory_info()
        room = None if info is None else self._available_bytes(info[0])
        known = [int(fraction * size) for size in (limit_bytes, room) if size is not None]
        lowest = min(known, default=None)
        by_option = limit_bytes is not None and lowest == int(fraction * limit_bytes)
        source = share_of(fraction, "`--memory-limit`" if by_option else _FREE)
        if lowest is not None and lowest <= held_bytes:
            raise DeviceError(
                "the model alone does not fit into the memory limit",
                code="nothing_fits",
                facts=(
                    f"parameters and buffers hold {format_bytes(held_bytes)}",
                    f"the limit is {format_bytes(lowest)}: {source}",
                ),
                hint="raise the limit, or use a smaller model",
            )
        if lowest is not None and (limit_bytes is not None or fraction < 1):
            self._cap(lowest + self._rest_bytes, None if info is None else info[1])
        self._limit_bytes = lowest
        self._limit_source = source

    def synchronize(self) -> None:
        torch.accelerator.synchronize(self.index)

    def now(self) -> float:
        return time.perf_counter()

    def reset_peak(self) -> None:
        torch.accelerator.reset_peak_memory_stats(self.index)

    def peak(self) -> Peak:
        stats = torch.accelerator.memory_stats(self.index)
        return Peak(
            allocated_bytes=self._above_rest(stats.get("allocated_bytes.all.peak", 0)),
            reserved_bytes=self._above_rest(stats.get("reserved_bytes.all.peak", 0)),
        )

    def start_usage(self) -> None:
        """Nothing to start: torch has no reading of utilisation that every accelerator answers."""

    def utilisation(self) -> float | None:
        return None

    def release(self) -> None:
        torch.accelerator.empty_cache()

    def _name(self) -> str:
        named = getattr(torch.get_device_module(self.kind), "get_device_name", None)
        return str(named(self.index)) if named is not None else self.kind

    def _notes(self) -> tuple[str, ...]:
        return ()

    def _memory_info(self) -> tuple[int, int] | None:
        """(free, total) bytes; None where the device's driver doesn't say."""
        try:
            return torch.accelerator.get_memory_info(self.index)
        except RuntimeError:  # not every allocator has the call
            return None

    def _allocated_bytes(self) -> int:
        return torch.accelerator.memory_allocated(self.index)

    def _reserved_bytes(self) -> int:
        return torch.accelerator.memory_reserved(self.index)

    def _available_bytes(self, free_bytes: int) -> int:
        """What training may come to hold: what is free, and what the allocator has for it already."""
        return free_bytes + self._above_rest(self._reserved_bytes())

    def _above_rest(self, size_bytes: int) -> int:
        return max(0, size_bytes - self._rest_bytes)

    def _set_fraction(self) -> Callable[[float], None] | None:
        """Sets the share of the device's memory that this process may take; None where torch can't.

        Not part of torch.accelerator, but cuda, xpu and some private backends have it by this name.
        """
        setter = getattr(torch.get_device_module(self.kind), "set_per_process_memory_fraction", None)
        if setter is None:
            return None
        return lambda fraction: setter(fraction, self.index)

    def _cap(self, cap_bytes: int, total_bytes: int | None) -> None:
        """Makes the allocator refuse what would take it above `cap_bytes`. Raises DeviceError if it can't."""
        setter = self._set_fraction()
        if setter is None or not total_bytes:
            raise DeviceError(
                f"a memory limit can't be enforced on `{self.torch_device}`",
                code="no_memory_limit",
                facts=(f"torch {torch.__version__} has no way to limit memory on `{self.kind}`",),
                hint="leave the memory limit out, to use what is free on the device",
            )
        setter(fraction_of(cap_bytes, total_bytes))


def fraction_of(cap_bytes: int, total_bytes: int) -> float:
    """The share of `total_bytes`, at most 1, of which an allocator makes exactly `cap_bytes` again.

    Allocators multiply and cut off the decimals, so a share rounded down would lose a byte, and with
    it a whole block at the limit: the next larger float can't.
    """
    return min(1.0, math.nextafter(cap_bytes / total_bytes, math.inf))


def _require(kind: str, index: int) -> None:
    """Raises DeviceError unless torch has device `index` of `kind`."""
    found = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if found is None else torch.accelerator.device_count()
    if found is not None and found.type == kind and 0 <= index < count:
        return
    here = [] if found is None else [f"`{found.type}:{number}`" for number in range(count)]
    raise DeviceError(
        f"torch {torch.__version__} has no device `{kind}:{index}` here",
        code="no_device",
        facts=(f"it has: {', '.join([*here, '`cpu`'])}",),
        hint="choose one of these with `--device`, or install a torch build for that device",
    )

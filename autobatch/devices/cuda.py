"""NVIDIA GPUs, and AMD GPUs under torch builds for ROCm, which torch calls `cuda` too.

Memory figures come from torch, which sees the same device as a training, also a slice under MIG. NVML adds
the facts that torch lacks: the driver, other processes, utilisation.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from autobatch.devices import nvml
from autobatch.devices.accelerator import AcceleratorBackend
from autobatch.records.device import Device, MemoryUser
from autobatch.records.errors import DeviceError
from autobatch.records.formatting import format_bytes


class CudaBackend(AcceleratorBackend):
    """A GPU by torch's index, which counts only the GPUs in CUDA_VISIBLE_DEVICES."""

    def __init__(self, index: int = 0) -> None:
        super().__init__("cuda", index)
        self._usage: nvml.UsageSampler | None = None
        self._retries = 0

    def describe(self) -> Device:
        """The current state of the GPU; `memory_users` excludes this process.

        Raises DeviceError where CUDA can't start on it.
        """
        free_bytes, total_bytes = self._memory_info()
        reading, notes = self._ask_driver()
        return Device(
            kind=self.kind,
            index=self.index,
            name=self._name(),
            total_bytes=total_bytes,
            free_bytes=free_bytes,
            uuid=_uuid(self._properties()),
            driver=reading.driver,
            limit_bytes=self._limit_bytes or self._available_bytes(free_bytes),
            limit_source=self._limit_source,
            utilisation=reading.utilisation,
            memory_users=_other_users(reading),
            notes=notes,
        )

    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        """See Backend. None also sets a cap, at the available memory.

        Without a cap, drivers on Windows continue in main memory, slowly, where others run out of memory.
        """
        super().limit_memory(limit_bytes, held_bytes, fraction)
        if limit_bytes is None and self._limit_bytes is not None:
            _free_bytes, total_bytes = self._memory_info()
            self._cap(self._limit_bytes + self._rest_bytes, total_bytes)

    def start_usage(self) -> None:
        self._stop_usage()
        if torch.version.hip is None:
            properties = self._properties()
            self._usage = nvml.UsageSampler(_uuid(properties), _pci_bus_id(properties))
            self._usage.start()

    def utilisation(self) -> float | None:
        """End the measurement; return the share of the time in which a kernel ran, 0 to 1."""
        return self._stop_usage()

    def reset_peak(self) -> None:
        super().reset_peak()
        self._retries = self._allocation_retries()

    def memory_pressure(self) -> str:
        """How often the allocator freed its cache to find room; each time it waits for the GPU."""
        count = self._allocation_retries() - self._retries
        return f"the allocator had to free its cache {count} times to find room" if count > 1 else ""

    def _allocation_retries(self) -> int:
        return int(torch.cuda.memory_stats(self.index).get("num_alloc_retries", 0))

    def _properties(self) -> Any:
        return torch.cuda.get_device_properties(self.index)

    def _memory_info(self) -> tuple[int, int]:
        """(free, total) bytes. The first call starts CUDA, which takes memory itself."""
        try:
            free_bytes, total_bytes = torch.cuda.mem_get_info(self.index)
        except RuntimeError as error:
            raise DeviceError(
                f"CUDA can't start on {self.torch_device}",
                code="device_unusable",
                facts=(str(error).partition("\n")[0], *self._held_by_others()),
                hint="stop the processes that use its memory, or choose another device with `--device`",
            ) from error
        return int(free_bytes), int(total_bytes)

    def _held_by_others(self) -> tuple[str, ...]:
        try:
            reading, _ = self._ask_driver()
        except RuntimeError:  # CUDA failed before it could identify the GPU
            return ()
        return tuple(_usage_text(user) for user in _other_users(reading))

    def _ask_driver(self) -> tuple[nvml.Reading, tuple[str, ...]]:
        """NVML's reading of this GPU, and notes for the user."""
        if torch.version.hip is not None:
            return nvml.Reading(), ()
        properties = self._properties()
        reading = nvml.read(_uuid(properties), _pci_bus_id(properties))
        if reading is None:
            reason = nvml.why_unavailable() or "NVIDIA's management library doesn't list this GPU"
            return nvml.Reading(), (f"utilisation and other processes are unknown: {reason}",)
        if reading.mig:
            # Figures of the whole GPU don't apply to a slice, and other slices don't take its memory.
            return nvml.Reading(driver=reading.driver), ("MIG is on: utilisation is unknown",)
        return reading, reading.notes

    def _stop_usage(self) -> float | None:
        return self._usage.stop() if self._usage is not None else None


def _uuid(properties: Any) -> str | None:
    """The GPU's UUID as CUDA writes it, without `GPU-`; None where torch doesn't give it."""
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else str(uuid)


def _pci_bus_id(properties: Any) -> str | None:
    """The GPU's PCI id in the form that NVML takes; None where torch doesn't give it."""
    bus = getattr(properties, "pci_bus_id", None)
    device = getattr(properties, "pci_device_id", None)
    if not isinstance(bus, int) or not isinstance(device, int):
        return None
    domain = getattr(properties, "pci_domain_id", 0)
    return f"{domain:08x}:{bus:02x}:{device:02x}.0"


def _other_users(reading: nvml.Reading) -> tuple[MemoryUser, ...]:
    return tuple(user for user in reading.memory_users if user.pid != os.getpid())


def _usage_text(user: MemoryUser) -> str:
    size = "memory" if user.memory_bytes is None else format_bytes(user.memory_bytes)
    return f"{size} is held by pid {user.pid} (`{user.name}`)"

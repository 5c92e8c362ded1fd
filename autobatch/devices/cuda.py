"""NVIDIA GPUs, and AMD GPUs under torch builds for ROCm, which torch calls `cuda` too.

Memory figures come from torch, which sees exactly what a training sees, a MIG slice included. NVML
adds what torch can't know: the driver, other processes, utilisation.
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
    """One GPU by torch's index, which counts only what CUDA_VISIBLE_DEVICES lets through."""

    def __init__(self, index: int = 0) -> None:
        super().__init__("cuda", index)
        self._usage: nvml.UsageSampler | None = None
        self._retries = 0

    def describe(self) -> Device:
        """The GPU as it stands now; `memory_users` are the processes other than this one.

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
            memory_users=_others(reading),
            notes=notes,
        )

    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        """See Backend. None, too, sets a cap, at what is available now.

        Without one, drivers on Windows go on in main memory, slowly, where others run out.
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
        """The share of the time in which any kernel ran, 0 to 1; ends the measurement."""
        return self._stop_usage()

    def reset_peak(self) -> None:
        super().reset_peak()
        self._retries = self._allocation_retries()

    def memory_pressure(self) -> str:
        """How often the allocator freed its cache to find room: each time waits for the GPU."""
        count = self._allocation_retries() - self._retries
        return f"the allocator had to free its cache {count} times to find room" if count > 1 else ""

    def _allocation_retries(self) -> int:
        return int(torch.cuda.memory_stats(self.index).get("num_alloc_retries", 0))

    def _properties(self) -> Any:
        return torch.cuda.get_device_properties(self.index)

    def _memory_info(self) -> tuple[int, int]:
        """(free, total) bytes. The first call starts CUDA, which takes memory of its own."""
        try:
            free_bytes, total_bytes = torch.cuda.mem_get_info(self.index)
        except RuntimeError as error:
            raise DeviceError(
                f"CUDA can't start on {self.torch_device}",
                code="device_unusable",
                facts=(str(error).partition("\n")[0], *self._held_by_others()),
                hint="stop the processes that hold its memory, or choose another device with `--device`",
            ) from error
        return int(free_bytes), int(total_bytes)

    def _held_by_others(self) -> tuple[str, ...]:
        try:
            reading, _ = self._ask_driver()
        except RuntimeError:  # CUDA didn't even come far enough to say which GPU this is
            return ()
        return tuple(_held(holder) for holder in _others(reading))

    def _ask_driver(self) -> tuple[nvml.Reading, tuple[str, ...]]:
        """What NVML knows about this very GPU, and what there is to say about that."""
        if torch.version.hip is not None:
            return nvml.Reading(), ()
        properties = self._properties()
        reading = nvml.read(_uuid(properties), _pci_bus_id(properties))
        if reading is None:
            reason = nvml.why_unavailable() or "NVIDIA's management library doesn't list this GPU"
            return nvml.Reading(), (f"utilisation and other processes are unknown: {reason}",)
        if reading.mig:
            # Use of the whole GPU says nothing about a slice, nor do the neighbours take its memory.
            return nvml.Reading(driver=reading.driver), ("MIG is on: utilisation is unknown",)
        return reading, reading.notes

    def _stop_usage(self) -> float | None:
        return self._usage.stop() if self._usage is not None else None


def _uuid(properties: Any) -> str | None:
    """The GPU's UUID as CUDA writes it, without `GPU-`; None where torch doesn't give it."""
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else str(uuid)


def _pci_bus_id(properties: Any) -> str | None:
    """The GPU's place on the PCI bus as NVML takes it; None where torch doesn't give it."""
    bus = getattr(properties, "pci_bus_id", None)
    device = getattr(properties, "pci_device_id", None)
    if not isinstance(bus, int) or not isinstance(device, int):
        return None
    domain = getattr(properties, "pci_domain_id", 0)
    return f"{domain:08x}:{bus:02x}:{device:02x}.0"


def _others(reading: nvml.Reading) -> tuple[MemoryUser, ...]:
    return tuple(holder for holder in reading.memory_users if holder.pid != os.getpid())


def _held(holder: MemoryUser) -> str:
    size = "memory" if holder.memory_bytes is None else format_bytes(holder.memory_bytes)
    return f"{size} is held by pid {holder.pid} (`{holder.name}`)"

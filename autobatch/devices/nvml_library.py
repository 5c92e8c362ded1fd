"""Calls of NVML, NVIDIA's management library, with their fallbacks for older drivers.

`pynvml`, of the package `nvidia-ml-py`, wraps the library. Each session starts and shuts it down again. The
calls raise `NVMLError` where the driver refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NamedTuple

import psutil

from autobatch.records.device import MemoryUser

# A GPU's memory may be used by CUDA programs, by clients of the multi-process service and by a desktop.
# Drivers before 510 have only the second version of these calls.
_PROCESS_CALLS = (
    ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2"),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v2"),
)


class UnavailableError(Exception):
    """NVML can't be used at all, for the reason in the text."""


class Memory(NamedTuple):
    """The memory of a GPU. `used_has_reserved`: used bytes include the driver's reserve."""

    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    used_has_reserved: bool = False


@contextmanager
def open_session() -> Iterator[Any]:
    """The initialised pynvml module; it is shut down on exit. Raises UnavailableError."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        raise UnavailableError("the package `nvidia-ml-py` is not installed") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVIDIA's management library can't be used: {error}") from error
    try:
        yield nvml
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVIDIA's driver refused: {error}") from error
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def find_handle(nvml: Any, uuid: str | None, pci_bus_id: str | None) -> Any | None:
    """The handle of a GPU; None where no GPU has this UUID or PCI id.

    Raises NVMLError where the GPU is out of reach. A lost GPU makes every look-up by UUID fail, because that
    asks all GPUs of the machine. So both look-ups are tried before the error is raised.
    """
    not_listed = (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument)
    refusal = None
    for look_up, key in (
        (nvml.nvmlDeviceGetHandleByUUID, _full_uuid(uuid)),
        (nvml.nvmlDeviceGetHandleByPciBusId, pci_bus_id),
    ):
        if key is None:
            continue
        try:
            return look_up(key)
        except not_listed:
            continue
        except nvml.NVMLError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    return None


def read_memory(nvml: Any, handle: Any) -> Memory:
    """Total, free and used bytes. Drivers before 510 have only the first version of the call."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        used_has_reserved = False
    except nvml.NVMLError:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        used_has_reserved = True
    return Memory(int(memory.total), int(memory.free), int(memory.used), used_has_reserved)


def read_mig(nvml: Any, handle: Any) -> bool:
    """True where MIG has cut the GPU into slices. GPUs and drivers without MIG refuse the question."""
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def read_utilisation(nvml: Any, handle: Any) -> float:
    """The share of the driver's last sampling window in which any kernel ran, 0 to 1."""
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


def read_memory_users(nvml: Any, handle: Any) -> tuple[MemoryUser, ...]:
    """The processes with memory on the GPU, largest first.

    Raises NVMLError only where CUDA programs can't be listed; the other lists exist on few machines.
    """
    bytes_by_pid: dict[int, int | None] = {}
    for position, versions in enumerate(_PROCESS_CALLS):
        try:
            processes = _list_processes(nvml, handle, *versions)
        except nvml.NVMLError:
            if position == 0:
                raise
            continue
        # A program that computes and draws is in two lists, each with all its memory.
        for process in processes:
            pid = int(process.pid)
            if bytes_by_pid.get(pid) is None:
                bytes_by_pid[pid] = process.usedGpuMemory
    users = (
        MemoryUser(pid=pid, name=_process_name(pid), memory_bytes=size) for pid, size in bytes_by_pid.items()
    )
    return tuple(sorted(users, key=lambda user: (-(user.memory_bytes or 0), user.pid)))


def _full_uuid(uuid: str | None) -> str | None:
    """The UUID as NVML writes it (CUDA leaves `GPU-` out); None for the UUID of a MIG slice."""
    if uuid is None or uuid.startswith("MIG-"):
        return None
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"


def _list_processes(nvml: Any, handle: Any, newer: str, older: str) -> list[Any]:
    try:
        return list(getattr(nvml, newer)(handle))
    except nvml.NVMLError_FunctionNotFound:
        return list(getattr(nvml, older)(handle))


def _process_name(pid: int) -> str:
    """The name of a process; `?` where it has ended or is hidden, as from inside a container."""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"

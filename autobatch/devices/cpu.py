"""The CPU as a training device: a real memory limit, process peaks, processor time.

The limit is the worker's soft RLIMIT_DATA, counted above the memory of the worker at rest. An allocation
above it fails as on a machine of that size, and no other process is in danger.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import torch

from autobatch.devices import heap, host
from autobatch.devices.base import Backend, Peak, limit_description, model_exceeds_limit
from autobatch.devices.sampling import PeakSampler
from autobatch.records.device import Device
from autobatch.records.formatting import format_bytes

_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
# The system may swap out a few pages of a process at rest at any time.
_SWAP_TOLERANCE_BYTES = 16 << 20


class CpuBackend(Backend):
    """The CPU of this machine, or of this container."""

    kind = "cpu"

    def __init__(self) -> None:
        self._limit_bytes: int | None = None
        self._limit_source = ""
        self._notes: tuple[str, ...] = ()
        self._rest_bytes = 0
        self._rest_file_bytes = 0
        self._rest_unused_bytes: int | None = None
        self._swapped_bytes = 0
        self._sampler: PeakSampler | None = None
        self._usage_start = (0.0, 0.0)

    @property
    def torch_device(self) -> str:
        return "cpu"

    def describe(self) -> Device:
        memory = host.read_memory()
        threads = torch.get_num_threads()
        return Device(
            kind="cpu",
            index=0,
            name=host.cpu_name(),
            total_bytes=memory.total_bytes,
            free_bytes=memory.available_bytes,
            threads=threads,
            limit_bytes=self._limit_bytes or host.default_limit(memory),
            limit_source=self._limit_source or _default_source(memory),
            notes=self._notes + _quota_note(threads),
        )

    def warm_up(self) -> None:
        """Start thread pools, oneDNN and autograd by tiny steps of a convolution and a linear layer."""
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 8)
        )
        for _ in range(2):
            model(torch.zeros(64, 3, 8, 8)).square().mean().backward()
        torch.optim.AdamW(model.parameters()).step()

    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        memory = host.read_memory()
        source = "`--memory-limit`" if limit_bytes else _default_source(memory)
        self._limit_source = limit_description(fraction, source)
        self._limit_bytes = int(fraction * (limit_bytes or host.default_limit(memory)))
        room_bytes = self._limit_bytes - held_bytes
        if room_bytes <= 0:
            raise model_exceeds_limit(held_bytes, self._limit_bytes, self._limit_source)
        self._rest_bytes = _resident_bytes() - held_bytes
        self._rest_file_bytes = _file_bytes()
        self._rest_unused_bytes = _unused_bytes()
        if not _limit_data(room_bytes):
            self._notes = ("the operating system does not enforce a memory limit; a watchdog does",)

    @property
    def watch_bytes(self) -> int | None:
        """See Backend: a watchdog, for systems that don't enforce the limit."""
        return self._rest_bytes + self._limit_bytes + (64 << 20) if self._limit_bytes else None

    def synchronize(self) -> None:
        """Do nothing: CPU kernels return when they are done."""

    def now(self) -> float:
        return time.perf_counter()

    def reset_peak(self) -> None:
        self._swapped_bytes = host.process_status().get("VmSwap", 0)
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            self._sampler = PeakSampler(_resident_bytes)

    def peak(self) -> Peak:
        if self._sampler is not None:
            highest = self._sampler.stop()
            self._sampler = None
        else:
            highest = host.process_status().get("VmHWM", 0)
        # Pages of libraries and mapped files become resident on first use, but the limit leaves them out.
        files_bytes = max(0, _file_bytes() - self._rest_file_bytes)
        allocated_bytes = max(0, highest - self._rest_bytes - files_bytes)
        return Peak(allocated_bytes=allocated_bytes, reserved_bytes=self._reserved_bytes(allocated_bytes))

    def live_bytes(self) -> int | None:
        return heap.allocated_bytes()

    def _reserved_bytes(self, allocated_bytes: int) -> int | None:
        """Bytes that count against the limit: also stacks and ends of heaps that are mapped but untouched."""
        rest_bytes, current_bytes = self._rest_unused_bytes, _unused_bytes()
        if rest_bytes is None or current_bytes is None:
            return None
        return allocated_bytes + max(0, current_bytes - rest_bytes)

    def memory_pressure(self) -> str:
        grown_bytes = host.process_status().get("VmSwap", 0) - self._swapped_bytes
        if grown_bytes <= _SWAP_TOLERANCE_BYTES:
            return ""
        return f"{format_bytes(grown_bytes)} of it was swapped out"

    def start_usage(self) -> None:
        self._usage_start = (time.process_time(), time.perf_counter())

    def utilisation(self) -> float | None:
        used = time.process_time() - self._usage_start[0]
        wall = time.perf_counter() - self._usage_start[1]
        cores = min(torch.get_num_threads(), host.usable_cpus())
        return min(1.0, used / (wall * cores)) if wall > 0 else None


def _limit_data(room_bytes: int) -> bool:
    """Set RLIMIT_DATA `room_bytes` above the process's data; True if the kernel enforces it."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    held = host.process_status().get("VmData")
    if held is None:
        return False
    if 0 <= hard < held + (64 << 20):
        # The user's code has set a tighter limit, which can't be raised again.
        return True
    resource.setrlimit(resource.RLIMIT_DATA, (held + (64 << 20), hard))
    enforced = not _can_map(128 << 20)
    limit = held + room_bytes if enforced else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
    return enforced


def _can_map(size_bytes: int) -> bool:
    try:
        mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


def _resident_bytes() -> int:
    status = host.process_status()
    if "VmRSS" in status:
        return status["VmRSS"]
    import psutil

    return int(psutil.Process().memory_info().rss)


def _file_bytes() -> int:
    return host.process_status().get("RssFile", 0)


def _unused_bytes() -> int | None:
    """Bytes that this process has mapped for its data and not touched; None where the system doesn't say."""
    status = host.process_status()
    if "VmData" not in status or "RssAnon" not in status:
        return None
    return status["VmData"] - status["RssAnon"]


def _default_source(memory: host.Memory) -> str:
    where = "this container" if memory.cgroup_bytes == memory.available_bytes else "this machine"
    return f"80% of the memory available on {where}"


def _quota_note(threads: int) -> tuple[str, ...]:
    quota = host.cpu_quota()
    if quota is None or quota >= threads:
        return ()
    return (f"the container may use {quota:.1f} processors, but torch runs {threads} threads",)

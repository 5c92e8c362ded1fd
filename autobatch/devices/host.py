"""The machine as the operating system reports it: available memory, limits and processors.

Every reader takes the root of the file tree, so that a test can describe another machine.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil

ROOT = Path("/")
# cgroup v1 writes "no limit" as a number close to 2**63.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory in bytes; this process could still take `available_bytes`.

    `cgroup_bytes` is the headroom of the tightest control group, None without a limited group.
    """

    total_bytes: int
    available_bytes: int
    cgroup_bytes: int | None


def read_memory(root: Path = ROOT) -> Memory:
    """The memory of the machine or of the container, whichever is less."""
    info = {key: kib * 1024 for key, kib in _numbers(root / "proc/meminfo").items()}
    if "MemAvailable" in info:
        total, available = info["MemTotal"], info["MemAvailable"]
    else:
        virtual = psutil.virtual_memory()
        total, available = virtual.total, virtual.available
    groups = list(_cgroup_memory(root))
    headroom = min((limit - used for limit, used in groups), default=None)
    if headroom is not None:
        total = min(total, *(limit for limit, _ in groups))
        available = max(0, min(available, headroom))
    return Memory(total_bytes=total, available_bytes=available, cgroup_bytes=headroom)


def default_limit(memory: Memory) -> int:
    """Bytes that training may take by default, so that the rest of the machine stays usable.

    80% of the available bytes, and at least 1 GiB or 5% of the total is left.
    """
    reserve = max(1 << 30, memory.total_bytes // 20)
    return max(0, min(memory.available_bytes * 8 // 10, memory.available_bytes - reserve))


def cpu_quota(root: Path = ROOT) -> float | None:
    """The number of processors that the control groups allow, e.g. 1.5; None without a quota."""
    quotas = []
    for folder in _cgroup_folders(root, "cpu"):
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit():
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = (
            _text(folder / "cpu.cfs_quota_us").strip(),
            _text(folder / "cpu.cfs_period_us").strip(),
        )
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cpu_name(root: Path = ROOT) -> str:
    """The processor's name as the system reports it."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "CPU"


def usable_cpus() -> int:
    """The number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_processors() -> int:
    """The number of processors that a DataLoader's workers may use, within the container's quota."""
    quota = cpu_quota()
    return max(1, usable_cpus() if quota is None else min(usable_cpus(), ceil(quota)))


def process_status(pid: int | str = "self", root: Path = ROOT) -> dict[str, int]:
    """The `Vm` and `Rss` entries of a process's status in bytes; empty without /proc."""
    status = _numbers(root / "proc" / str(pid) / "status")
    return {key: kib * 1024 for key, kib in status.items() if key.startswith(("Vm", "Rss"))}


def _cgroup_memory(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, working set) in bytes of every control group with a memory limit, v1 and v2.

    The working set excludes inactive file pages, which the kernel drops before it kills a process.
    """
    for folder in _cgroup_folders(root, "memory"):
        is_v2 = (folder / "memory.current").exists()
        names = ("memory.max", "memory.high") if is_v2 else ("memory.limit_in_bytes",)
        texts = [_text(folder / name).strip() for name in names]
        limits = [int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT]
        if not limits:
            continue
        used = _text(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes")).strip()
        cache = _numbers(folder / "memory.stat").get("inactive_file" if is_v2 else "total_inactive_file", 0)
        yield min(limits), (int(used) if used.isdigit() else 0) - cache


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """The control group of this process and all its ancestors, innermost first."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            bases = [root / "sys/fs/cgroup" / controller, root / "sys/fs/cgroup" / controllers]
        else:
            continue
        for base in bases:
            inner = base / path.strip("/")
            # In a cgroup namespace the path may not exist below the mount; the root of the mount always does.
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(base))


def _numbers(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(path).splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in pairs if len(words) > 1 and words[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

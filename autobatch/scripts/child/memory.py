"""Peak memory of this process, above what it held right after `import torch`."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

_CLEAR_REFS = "/proc/self/clear_refs"
_RESET_PEAK = "5"


class Memory:
    """The device's allocator where there is an accelerator, else the resident memory of the process."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        """`limit_bytes`: an allocation fails once training takes more, as it would on a smaller device."""
        self._limit_bytes = limit_bytes
        self._rest_bytes = _status("VmRSS")
        self._rest_file_bytes = _status("RssFile")
        if limit_bytes is not None and not torch.cuda.is_available():
            self._limit_data(limit_bytes)

    def limit_allocator(self) -> None:
        """Limit CUDA's allocator, once training has begun: before, a script may still choose its device."""
        if self._limit_bytes is not None and torch.cuda.is_available():
            _, total = torch.cuda.mem_get_info()
            torch.cuda.set_per_process_memory_fraction(min(1.0, self._limit_bytes / total))

    def _limit_data(self, limit_bytes: int) -> None:
        held = _status("VmData")
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = held + limit_bytes
        if held and sys.platform == "linux" and (hard < 0 or limit < hard):
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    def reset(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            with open(_CLEAR_REFS, "w") as file:
                file.write(_RESET_PEAK)
        except OSError:
            return

    def peak(self) -> tuple[int | None, int | None]:
        """(allocated, reserved) bytes since the last reset; None where the system does not say."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        highest = _status("VmHWM")
        # Pages of libraries come in as they are used, and are no memory of the training's.
        files_bytes = max(0, _status("RssFile") - self._rest_file_bytes)
        return (max(0, highest - self._rest_bytes - files_bytes) if highest else None), None


def describe_device() -> dict[str, Any]:
    """The device that training uses here, as facts for a Device record."""
    if torch.cuda.is_available():
        index = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        return {"kind": "cuda", "index": index, "name": name, "total_bytes": total, "free_bytes": free}
    # torch 2.6 has no `check_available`, without which an accelerator without a driver counts.
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        return {"kind": accelerator.type, "index": torch.accelerator.current_device_index(), "name": ""}
    return {"kind": "cpu", "index": 0, "name": "", "threads": torch.get_num_threads()}


def synchronize() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes; 0 where there is none."""
    try:
        with open("/proc/self/status") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)
    except OSError:
        return 0

"""Apple's GPUs through Metal. Written from PyTorch's source and documentation; not run on real hardware.

Two things differ from other accelerators. torch.mps counts allocated bytes but keeps no peak, so a thread
samples them. And the memory is shared with the machine: above the recommended size Metal continues and the
system swaps, where other devices run out of memory. The worker therefore starts with both watermark ratios
set (torch reads them when it is imported), and growing swap is noted.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch

from autobatch.devices.accelerator import AcceleratorBackend
from autobatch.devices.base import Peak
from autobatch.devices.sampling import PeakSampler
from autobatch.records.formatting import format_bytes

# The system swaps a little at any time; only more than this shows that memory is short.
_SWAP_TOLERANCE_BYTES = 64 << 20


class MpsBackend(AcceleratorBackend):
    """The GPU of an Apple machine. Not run on real hardware.

    Its total is the working set that Metal recommends, and free is this total minus the bytes of this
    process: Metal doesn't report other processes. A limit counts all bytes that the Metal driver gave to
    this process, including caches.
    """

    def __init__(self) -> None:
        super().__init__("mps", 0)
        self._sampler: PeakSampler | None = None
        self._highest_bytes = 0
        self._swap_at_start_bytes = self._swap_at_reset_bytes = _swap_bytes()

    @property
    def torch_device(self) -> str:
        return "mps"

    def warm_up(self) -> None:
        """Compile the shaders of a small step, and start the command queue."""
        weight = torch.zeros(64, 64, device="mps", requires_grad=True)
        (weight @ weight).sum().backward()
        self.synchronize()

    def synchronize(self) -> None:
        torch.mps.synchronize()

    def reset_peak(self) -> None:
        self._stop_sampling()
        self._swap_at_reset_bytes = _swap_bytes()
        self._sampler = PeakSampler(torch.mps.current_allocated_memory)

    def peak(self) -> Peak:
        """The highest sample since the last reset; ends the sampling.

        Sampling may miss a tensor that lives shorter than its interval, so this is a lower bound.
        """
        self._stop_sampling()
        # The driver's figure hardly falls before the cache is emptied, so its last value stands for its peak.
        reserved_bytes = max(self._highest_bytes, self._reserved_bytes())
        return Peak(
            allocated_bytes=self._above_rest(self._highest_bytes),
            reserved_bytes=self._above_rest(reserved_bytes),
        )

    def memory_pressure(self) -> str:
        grown_bytes = _swap_bytes() - self._swap_at_reset_bytes
        return (
            f"the system swapped out {format_bytes(grown_bytes)}"
            if grown_bytes > _SWAP_TOLERANCE_BYTES
            else ""
        )

    def release(self) -> None:
        torch.mps.empty_cache()

    def _stop_sampling(self) -> None:
        if self._sampler is not None:
            self._highest_bytes = self._sampler.stop()
            self._sampler = None

    def _name(self) -> str:
        # torch 2.6 has no `get_name`.
        read_name = getattr(torch.backends.mps, "get_name", None)
        return "Apple GPU" if read_name is None else str(read_name())

    def _notes(self) -> tuple[str, ...]:
        grown_bytes = _swap_bytes() - self._swap_at_start_bytes
        if grown_bytes <= _SWAP_TOLERANCE_BYTES:
            return ()
        return (f"the system swapped out {format_bytes(grown_bytes)}: the sizes tried since then are slower",)

    def _memory_info(self) -> tuple[int, int]:
        total_bytes = torch.mps.recommended_max_memory()
        return max(0, total_bytes - torch.mps.driver_allocated_memory()), total_bytes

    def _allocated_bytes(self) -> int:
        return torch.mps.current_allocated_memory()

    def _reserved_bytes(self) -> int:
        return torch.mps.driver_allocated_memory()

    def _set_fraction(self) -> Callable[[float], None]:
        return torch.mps.set_per_process_memory_fraction  # there is one device, so it takes no index


def _swap_bytes() -> int:
    return int(psutil.swap_memory().used)

"""The Python side of `testdev`, and its device module: what torch.cuda is to `cuda`, this is to it.

After `register()`, `testdev` is the accelerator of this process: `torch.device("testdev")`,
`torch.accelerator` and `tensor.to("testdev")` work. Its size is a limit in bytes that holds exactly
(in blocks of 512 bytes). Registration lasts as long as the process, so tests register in a child.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from types import TracebackType

import torch
from torch.utils.backend_registration import (
    generate_methods_for_privateuse1_backend,
    rename_privateuse1_backend,
)

from tests.accelerator import built_library

NAME = "testdev"
LIMIT_VARIABLE = "TESTDEV_LIMIT_BYTES"
DEFAULT_LIMIT_BYTES = 1 << 30

DeviceLike = torch.device | str | int | None


def register(limit_bytes: int | None = None) -> None:
    """Makes `testdev` the accelerator of this process, with `limit_bytes` of memory.

    Without a number its size is that of a call before, of TESTDEV_LIMIT_BYTES, or 1 GiB. May be
    called again, to give the device another size.
    """
    if limit_bytes is None and _library.cache_info().currsize == 0:
        limit_bytes = int(os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT_BYTES)
    library = _library()
    if limit_bytes is not None:
        library.testdev_set_capacity(limit_bytes)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(built_library()))
    library.testdev_set_capacity.argtypes = (ctypes.c_uint64,)
    library.testdev_set_capacity.restype = None
    library.testdev_set_fraction.argtypes = (ctypes.c_double,)
    library.testdev_set_fraction.restype = None
    rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, sys.modules[__name__])
    generate_methods_for_privateuse1_backend()
    return library


# What PyTorch and its users ask of a device module.


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    return 1


def current_device() -> int:
    return 0


def set_device(device: DeviceLike) -> None:
    torch.accelerator.set_device_index(device)


def get_device_name(device: DeviceLike = None) -> str:
    return "Test Device"


def synchronize(device: DeviceLike = None) -> None:
    torch.accelerator.synchronize()


def set_per_process_memory_fraction(fraction: float, device: DeviceLike = None) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    _library().testdev_set_fraction(fraction)


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


# Random numbers are drawn by the CPU kernels, from the CPU's generator.


def manual_seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    manual_seed(seed)


def get_rng_state(device: DeviceLike = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(new_state: torch.Tensor, device: DeviceLike = None) -> None:
    torch.set_rng_state(new_state)


class device:  # noqa: N801  # the name that PyTorch looks for
    """A context in which a device is the current one: there's but one, so it always is."""

    def __init__(self, device: DeviceLike) -> None:
        self.idx = 0

    def __enter__(self) -> None:
        """Nothing to change."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to change back."""

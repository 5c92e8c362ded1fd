"""Devices as a worker sees them. Importing this package does not import torch; opening a backend does.

To add a device, write a module with a subclass of `Backend` and add one line to `BACKENDS`. A device that
torch.accelerator serves completely needs neither: AcceleratorBackend opens it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from autobatch.records.errors import UsageError

if TYPE_CHECKING:
    from autobatch.devices.base import Backend


class BackendEntry(NamedTuple):
    """The class of a backend, by module and name, so that only the opened backend is imported.

    `numbered`: a machine may have several of these devices, and the class takes an index.
    """

    module: str
    class_name: str
    numbered: bool


BACKENDS = {
    "cpu": BackendEntry("autobatch.devices.cpu", "CpuBackend", numbered=False),
    "mps": BackendEntry("autobatch.devices.mps", "MpsBackend", numbered=False),
    "cuda": BackendEntry("autobatch.devices.cuda", "CudaBackend", numbered=True),
}


def parse_name(name: str) -> tuple[str, int]:
    """(kind, index) of a device name such as `cpu`, `cuda` or `cuda:1`. Raises UsageError."""
    kind, _, index = name.partition(":")
    entry = BACKENDS.get(kind)
    wrong_index = entry is not None and not entry.numbered and index not in ("", "0")
    if not kind.isidentifier() or (index and not index.isdigit()) or wrong_index:
        raise UsageError(
            f"`{name}` is not a device name", code="bad_device", hint="write `cpu`, `mps`, `cuda` or `cuda:1`"
        )
    return kind, int(index or 0)


def open_backend(name: str | None) -> Backend:
    """The backend of device `name`; without a name that of this process's accelerator, else of the CPU.

    Raises UsageError for a malformed name, and DeviceError where torch has no such device.
    """
    from autobatch.devices.accelerator import AcceleratorBackend, available_accelerator

    if name is None:
        accelerator = available_accelerator()
        name = "cpu" if accelerator is None else accelerator.type
    kind, index = parse_name(name)
    entry = BACKENDS.get(kind)
    if entry is None:
        return AcceleratorBackend(kind, index)
    backend_class = getattr(import_module(entry.module), entry.class_name)
    backend: Backend = backend_class(index) if entry.numbered else backend_class()
    return backend


def open_all() -> tuple[Backend, ...]:
    """Every device of this process: each index of the accelerator, then the CPU."""
    from autobatch.devices.accelerator import device_names

    return tuple(open_backend(name) for name in device_names())

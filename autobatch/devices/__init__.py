"""Devices, as a worker sees them. Only a worker imports the backends: they import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autobatch.records.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from autobatch.devices.base import Backend


def parse_name(name: str) -> tuple[str, int]:
    """(kind, index) of a device name such as `cpu`, `cuda` or `cuda:1`. Raises UsageError."""
    kind, _, index = name.partition(":")
    only_one = kind in ("cpu", "mps") and index not in ("", "0")
    if not kind.isidentifier() or (index and not index.isdigit()) or only_one:
        raise UsageError(
            f"`{name}` is not a device name", code="bad_device", hint="write `cpu`, `mps`, `cuda` or `cuda:1`"
        )
    return kind, int(index or 0)


def open_backend(name: str | None) -> Backend:
    """The backend of device `name`; without a name the accelerator of this process, else the CPU.

    Raises DeviceError where torch has no such device.
    """
    import torch

    if name is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if found is None else found.type
    kind, index = parse_name(name)
    if kind == "cpu":
        from autobatch.devices.cpu import CpuBackend

        return CpuBackend()
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type != kind:
        here = "`cpu`" if found is None else f"`{found.type}`, `cpu`"
        raise DeviceError(
            f"torch {torch.__version__} has no `{kind}` device here",
            code="no_device",
            facts=(f"it has: {here}",),
            hint="choose one of these with `--device`, or install a torch build for that device",
        )
    if kind == "mps":
        from autobatch.devices.mps import MpsBackend

        return MpsBackend()
    if kind == "cuda":
        from autobatch.devices.cuda import CudaBackend

        return CudaBackend(index)
    from autobatch.devices.accelerator import AcceleratorBackend

    return AcceleratorBackend(kind, index)


def open_all() -> tuple[Backend, ...]:
    """Every device of this process: each index of the accelerator, then the CPU."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return (open_backend("cpu"),)
    names = [f"{found.type}:{index}" for index in range(torch.accelerator.device_count())]
    return (*(open_backend(name) for name in names), open_backend("cpu"))

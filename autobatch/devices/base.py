"""The protocol that every device backend implements, inside the worker process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from autobatch.records.device import Device
from autobatch.records.errors import DeviceError
from autobatch.records.formatting import format_bytes


@dataclass(frozen=True, slots=True)
class Peak:
    """The peak memory of training since the last reset, above the worker at rest."""

    allocated_bytes: int | None
    reserved_bytes: int | None = None


class Backend(ABC):
    """A device: its description, its memory limit, its clock, its peak memory and its utilisation.

    Life cycle: `warm_up`, `limit_memory` once, then any number of `reset_peak`, work, `synchronize`,
    `peak`. A backend lives in the worker process only; it never touches the user's process.
    """

    kind: str
    index: int = 0

    @property
    @abstractmethod
    def torch_device(self) -> str:
        """The name that torch.device takes: `cpu`, `mps`, `cuda:0`."""

    @abstractmethod
    def describe(self) -> Device:
        """The current state of the device: names, memory, its users and its limit."""

    @abstractmethod
    def warm_up(self) -> None:
        """Start thread pools and contexts, so that no trial pays for their start."""

    @abstractmethod
    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        """Limit the memory of training from here on; None stands for the available memory.

        Training may take the share `fraction` of the limit. A model made before this call already takes
        `held_bytes` of it. Raises DeviceError where the limit can't be enforced or the model exceeds it.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all submitted work."""

    @abstractmethod
    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Start a new measurement of the peak."""

    @abstractmethod
    def peak(self) -> Peak:
        """The peak since the last reset."""

    @abstractmethod
    def live_bytes(self) -> int | None:
        """The bytes that are allocated now, without free blocks; None where no reading exists."""

    @abstractmethod
    def start_usage(self) -> None:
        """Start a measurement of utilisation."""

    @abstractmethod
    def utilisation(self) -> float | None:
        """The share of the device in use since `start_usage`, 0 to 1; None where no reading exists."""

    @property
    def watch_bytes(self) -> int | None:
        """Resident bytes above which the worker must be killed; None where the device enforces its limit."""
        return None

    def memory_pressure(self) -> str:
        """Signs since `reset_peak` that memory is too small although nothing failed; else empty."""
        return ""

    def release(self) -> None:  # noqa: B027 - most devices cache nothing
        """Return cached memory to the device."""


def limit_description(fraction: float, source: str) -> str:
    """The source of a limit, with the share of it that training may use."""
    return source if fraction == 1.0 else f"{fraction:.0%} of {source}"


def model_exceeds_limit(held_bytes: int, limit_bytes: int, source: str) -> DeviceError:
    """The error of a memory limit that parameters and buffers alone reach."""
    return DeviceError(
        "the model alone does not fit into the memory limit",
        code="nothing_fits",
        facts=(
            f"parameters and buffers take {format_bytes(held_bytes)}",
            f"the limit is {format_bytes(limit_bytes)}: {source}",
        ),
        hint="raise the limit, or use a smaller model",
    )

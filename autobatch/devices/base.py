"""The one protocol that every device backend speaks, inside the worker process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from autobatch.records.device import Device


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that training took since the last reset, above the worker at rest."""

    allocated_bytes: int | None
    reserved_bytes: int | None = None


class Backend(ABC):
    """One device: what it is, what it may use, how long things take on it, what they took.

    Life cycle: `warm_up`, `limit_memory` once, then any number of `reset_peak`, work, `synchronize`,
    `peak`. A backend lives in the worker and dies with it; it never touches the user's process.
    """

    kind: str
    index: int = 0

    @property
    @abstractmethod
    def torch_device(self) -> str:
        """The name that torch.device takes: `cpu`, `mps`, `cuda:0`."""

    @abstractmethod
    def describe(self) -> Device:
        """The device as it stands now: names, memory, who holds it, what limits it."""

    @abstractmethod
    def warm_up(self) -> None:
        """Starts what every training starts once (thread pools, contexts), so that no trial pays for it."""

    @abstractmethod
    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        """Enforces a limit on what training may take from here on; None takes what is available.

        Of either, the share `fraction` is used. `held_bytes` of it are already taken (a model made before
        this call). Raises DeviceError where the limit can't be kept.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Returns when all work given to the device is done."""

    @abstractmethod
    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Starts a new measurement of the peak."""

    @abstractmethod
    def peak(self) -> Peak:
        """The peak since the last reset."""

    @abstractmethod
    def start_usage(self) -> None:
        """Starts a measurement of utilisation."""

    @abstractmethod
    def utilisation(self) -> float | None:
        """The share of the device in use since `start_usage`, 0 to 1; None where it can't be read."""

    def memory_pressure(self) -> str:
        """What shows, since `reset_peak`, that the memory is too small though nothing failed; or nothing."""
        return ""

    def release(self) -> None:  # noqa: B027 - nothing to give back is a good default
        """Gives cached memory back."""


def share_of(fraction: float, source: str) -> str:
    """What a limit is set by, where only a share of it is used."""
    return source if fraction == 1.0 else f"{fraction:.0%} of {source}"

"""The predicted time to a loss over the number of devices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCount:
    """Predicted, not measured: a number of devices with its best batch size of each.

    `relative_time`: to the same loss, in units of that with the ranks that were measured.
    """

    devices: int
    batch_size: int
    global_batch_size: int
    relative_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Predicted time to the same loss over the number of devices, ascending.

    `useful_devices`: with more than these the time grows; None where it falls up to the largest number.
    """

    counts: tuple[DeviceCount, ...]
    useful_devices: int | None

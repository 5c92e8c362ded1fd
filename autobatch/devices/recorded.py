"""A device that was described earlier, as it is now, without torch."""

from __future__ import annotations

from dataclasses import replace

from autobatch.devices import host, nvml
from autobatch.records.device import Device


def read_again(recorded: Device, fraction: float) -> Device | None:
    """Return the recorded device as it is now; None where it takes torch to see that.

    `fraction`: the share of the available memory that training may use.
    """
    if recorded.kind == "cpu":
        memory = host.read_memory()
        return replace(
            recorded,
            name=host.cpu_name(),
            total_bytes=memory.total_bytes,
            free_bytes=memory.available_bytes,
            limit_bytes=int(fraction * host.default_limit(memory)),
        )
    if recorded.kind != "cuda" or None in (recorded.uuid, recorded.free_bytes, recorded.limit_bytes):
        return None
    reading = nvml.read(recorded.uuid)
    if reading is None or reading.mig or reading.free_bytes is None:
        return None
    assert recorded.free_bytes is not None
    assert recorded.limit_bytes is not None
    # Torch had its context already, so no less than it saw may be free before there is one.
    grown_bytes = reading.free_bytes - recorded.free_bytes
    if grown_bytes < 0:
        return None
    return replace(
        recorded,
        driver=reading.driver,
        free_bytes=reading.free_bytes,
        limit_bytes=recorded.limit_bytes + int(fraction * grown_bytes),
    )

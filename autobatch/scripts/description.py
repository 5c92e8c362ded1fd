"""Pure: an observed script as the records of a workload and of a device."""

from __future__ import annotations

from pathlib import Path

from autobatch.devices import host
from autobatch.records.device import Device
from autobatch.records.limits import Limits
from autobatch.records.workload import Decay, Workload
from autobatch.scripts.command import Command
from autobatch.scripts.knob import Knob, epochs_of
from autobatch.scripts.messages import Observation


def workload_of(command: Command, observed: Observation, knob: Knob) -> Workload:
    """The Workload record of a script."""
    loader, unit = observed.loader, observed.micro_batches
    size = knob.current * unit
    inferred = [f"step: {observed.optimizer}.step at {Path(observed.step_file).name}:{observed.step_line}"]
    if unit > 1:
        inferred.append(f"{unit} micro batches a step")
    return Workload(
        target=command.text,
        model=observed.model,
        parameters=observed.parameters,
        loss="the script's",
        optimizer=observed.optimizer,
        learning_rate=observed.learning_rate,
        decays=tuple(Decay(name=name, value=value) for name, value in observed.decays.items()),
        dataset=loader.dataset if loader is not None else "",
        dataset_size=loader.dataset_size if loader is not None else None,
        batch_size=size,
        epochs=epochs_of(command, observed, knob.current),
        workers=loader.workers if loader is not None else None,
        precision=None,
        inferred=tuple(inferred),
    )


def device_of(observed: Observation, limits: Limits) -> Device:
    """The Device record of a script, with the limit of its memory."""
    facts = observed.device
    limit_bytes, limit_source = _memory_limit(limits, observed)
    return Device(
        kind=facts.kind,
        index=facts.index,
        name=facts.name or host.cpu_name(),
        total_bytes=facts.total_bytes,
        free_bytes=facts.free_bytes,
        threads=facts.threads,
        limit_bytes=limit_bytes,
        limit_source=limit_source,
    )


def _memory_limit(limits: Limits, observed: Observation) -> tuple[int | None, str]:
    """The bytes that training may take on the device, and the source of this limit."""
    if limits.memory_bytes is not None:
        return int(limits.memory_fraction * limits.memory_bytes), "`--memory-limit`"
    if observed.device.kind == "cpu":
        available = host.default_limit(host.read_memory())
        return int(limits.memory_fraction * available), "80% of what is available"
    free = observed.device.free_bytes
    return (None if free is None else int(limits.memory_fraction * free)), "free memory"

"""The plan of a workload over all requested devices, from traces of its step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobatch._version import __version__
from autobatch.engines import messages, trace_messages
from autobatch.engines.local import LocalEngine
from autobatch.engines.opening import find_devices, new_engine
from autobatch.planning import catalogue, caveats
from autobatch.planning.capacity import LARGEST
from autobatch.planning.planner import Planner
from autobatch.records.errors import TargetError, UsageError
from autobatch.records.limits import Limits
from autobatch.records.plan import Asked, Fit, Plan, PlannedDevice
from autobatch.records.workload import Workload

# For one trace: of a large model it takes minutes where others use the processor.
_TRACE_SECONDS = 600.0


def plan_recipe(
    recipe: messages.Recipe,
    devices: Sequence[PlannedDevice | None],
    *,
    batch_size: int | None,
    channels_last: bool,
    on_output: Callable[[str], None] | None = None,
) -> Plan:
    """The plan for a recipe; of the devices, None is the one that is here."""
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"`batch_size` must be at least 1, not {batch_size}", code="bad_batch_size")
    planned = tuple(_current_device() if device is None else device for device in devices)
    limits = Limits(trial_timeout_seconds=_TRACE_SECONDS)
    engine, _ = new_engine(recipe, limits, "cpu", on_output)
    try:
        return plan_for(engine, planned, batch_size=batch_size, channels_last=channels_last)
    finally:
        engine.close()


def _current_device() -> PlannedDevice:
    """The accelerator that is here, else the CPU."""
    devices = find_devices()
    accelerators = (device for device in devices if device.kind != "cpu")
    return catalogue.of_current(next(accelerators, devices[0]))


def plan_for(
    engine: LocalEngine, devices: Sequence[PlannedDevice], *, batch_size: int | None, channels_last: bool
) -> Plan:
    """The plan of the engine's workload, in the order of `devices`.

    Raises what opening the engine raises, and TargetError where the step can't be traced.
    """
    opened = engine.open()
    limit = most_samples(opened.workload)
    fits: dict[PlannedDevice, Fit] = {}
    asked: Asked | None = None
    traits: set[str] = set()
    guessed = 0
    for on_host in (False, True):
        chosen = [device for device in devices if (device.kind == "cpu") is on_host]
        if not chosen:
            continue
        planner = _open_planner(engine, opened.workload, on_host=on_host, channels_last=channels_last)
        # The largest device first: a trace that confirms its size also confirms all smaller sizes.
        by_room = sorted(chosen, key=lambda device: device.room_bytes, reverse=True)
        fits |= {device: planner.fit(device) for device in by_room}
        if batch_size is not None and (asked is None or asked.smallest is None):
            asked = planner.ask(batch_size, list(fits.values()))
        traits |= planner.traits
        guessed = max(guessed, planner.guessed)
        # A session can trace again only by the same rules.
        engine.renew()
    return Plan(
        workload=opened.workload,
        channels_last=channels_last,
        fits=tuple(fits[device] for device in devices),
        asked=asked,
        accuracy=caveats.ACCURACY,
        assumptions=caveats.assumptions(
            opened.workload,
            channels_last=channels_last,
            guessed=guessed,
            most_samples=limit if any(fit.batch_size == limit for fit in fits.values()) else None,
        ),
        warnings=caveats.warnings(traits, {device.kind for device in devices}),
        autobatch=__version__,
        torch=opened.torch,
    )


def most_samples(workload: Workload) -> int | None:
    """The size of the data set, where it limits a batch. A single sample stands for any number of them."""
    size = workload.dataset_size
    return None if size is None or size == 1 else size


def _open_planner(engine: LocalEngine, workload: Workload, *, on_host: bool, channels_last: bool) -> Planner:
    """A planner that has traced the step at small sizes: without data, else on real batches."""
    details: list[str] = []
    for real in (False, True):
        planner = Planner(
            _tracer(engine, real=real, cuda=not on_host, channels_last=channels_last),
            real=real,
            heap=on_host,
            most_samples=most_samples(workload) or LARGEST,
        )
        detail = planner.open()
        if not detail:
            return planner
        details.append(detail)
        engine.renew()
    raise _untraceable(workload.model, *details)


def _tracer(
    engine: LocalEngine, *, real: bool, cuda: bool, channels_last: bool
) -> Callable[[int, int], trace_messages.Storages]:
    def trace(first: int, second: int) -> trace_messages.Storages:
        command = trace_messages.TraceStorages(
            sizes=(first, second), cuda=cuda, fake=not real, channels_last=channels_last
        )
        return engine.trace_storages(command)

    return trace


def _untraceable(model: str, without_data: str, with_data: str) -> TargetError:
    return TargetError(
        f"the training step of `{model}` can't be traced",
        code="cannot_trace",
        facts=(f"without data: {without_data}", f"on small real batches: {with_data}"),
        hint="run a training step on the CPU to see the whole error, then plan again",
    )

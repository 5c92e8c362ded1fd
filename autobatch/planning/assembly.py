"""From a workload's traces to its plan, over every device that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobatch._version import __version__
from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.planning import caveats
from autobatch.planning.planner import Planner
from autobatch.records.errors import TargetError
from autobatch.records.plan import Asked, Fit, Plan, PlannedDevice


def plan_for(
    engine: LocalEngine, devices: Sequence[PlannedDevice], *, batch_size: int | None, channels_last: bool
) -> Plan:
    """The plan of what the engine opens, by the order of `devices`.

    Raises what opening it raises, and TargetError where its step can't be traced.
    """
    opened = engine.open()
    fits: dict[PlannedDevice, Fit] = {}
    asked: Asked | None = None
    traits: set[str] = set()
    guessed = 0
    for on_host in (False, True):
        chosen = [one for one in devices if (one.kind == "cpu") is on_host]
        if not chosen:
            continue
        planner = _opened(engine, opened.workload.model, on_host=on_host, channels_last=channels_last)
        # The largest first: what is so there needs no look at the smaller ones.
        by_room = sorted(chosen, key=lambda one: one.room_bytes, reverse=True)
        fits |= {one: planner.fit(one) for one in by_room}
        if batch_size is not None and (asked is None or asked.smallest is None):
            asked = planner.ask(batch_size, list(fits.values()))
        traits |= planner.traits
        guessed = max(guessed, planner.guessed)
        # What a session has traced it can trace again, but only by the same rules.
        engine.renew()
    return Plan(
        workload=opened.workload,
        channels_last=channels_last,
        fits=tuple(fits[one] for one in devices),
        asked=asked,
        accuracy=caveats.ACCURACY,
        assumptions=caveats.assumptions(opened.workload, channels_last=channels_last, guessed=guessed),
        warnings=caveats.warnings(traits, {one.kind for one in devices}),
        autobatch=__version__,
        torch=opened.torch,
    )


def _opened(engine: LocalEngine, model: str, *, on_host: bool, channels_last: bool) -> Planner:
    """A planner whose small traces are there: without data, else on real batches."""
    details: list[str] = []
    for real in (False, True):
        planner = Planner(
            _tracing(engine, real=real, cuda=not on_host, channels_last=channels_last),
            real=real,
            heap=on_host,
        )
        detail = planner.open()
        if not detail:
            return planner
        details.append(detail)
        engine.renew()
    raise _untraceable(model, *details)


def _tracing(
    engine: LocalEngine, *, real: bool, cuda: bool, channels_last: bool
) -> Callable[[int, int], messages.Storages]:
    def trace(first: int, second: int) -> messages.Storages:
        asked = messages.TraceStorages(
            sizes=(first, second), cuda=cuda, fake=not real, channels_last=channels_last
        )
        return engine.trace_storages(asked)

    return trace


def _untraceable(model: str, without_data: str, with_data: str) -> TargetError:
    return TargetError(
        f"the training step of `{model}` can't be traced",
        code="cannot_trace",
        facts=(f"without data: {without_data}", f"on small real batches: {with_data}"),
        hint="run one training step of your own on the CPU to see the whole error, then plan again",
    )

"""Climbs on a simulated device, for the tests of a climb and of what follows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autobatch.measurement.climb import Climb
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve
from tests.simulated import MIB, Machine, SimulatedEngine


def climb(machine: Machine, limits: Limits | None = None) -> tuple[Curve, SimulatedEngine]:
    engine = SimulatedEngine(machine)
    return Climb(engine, limits or Limits(budget_seconds=1e6)).run(), engine


def forecast_machine(**changes: Any) -> Machine:
    return replace(Machine(total_bytes=9000 * MIB, fixed_bytes=500 * MIB, sample_bytes=7 * MIB), **changes)

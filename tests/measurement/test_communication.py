"""The price of training together: measured by ranks only, and None where it can't be measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.decision.constants import MAX_REPEATS
from autobatch.engines import messages
from autobatch.measurement.budget import Budget
from autobatch.measurement.communication import measure_communication
from autobatch.measurement.interleaved import time_in_turns
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from tests.simulated import Machine, SimulatedEngine
from tests.simulated_ranks import alike, ranked

LIMITS = Limits(budget_seconds=60.0)


def test_ranks_step_with_and_without_communication() -> None:
    engine, _, members = ranked(alike(Machine(), 2), LIMITS)
    measured = measure_communication(engine, 8, Budget.of(LIMITS, engine))
    assert measured is not None
    assert measured.batch_size == 8
    assert measured.step_seconds == pytest.approx(measured.alone_seconds)
    assert members[1].rounds == [8] * (2 * MAX_REPEATS)
    assert engine.fresh


def test_a_single_process_has_no_communication() -> None:
    engine = SimulatedEngine(Machine())
    assert measure_communication(engine, 8, Budget.of(LIMITS, engine)) is None
    assert engine.rounds == []


def test_a_failed_round_leaves_no_figure() -> None:
    machines = alike(Machine(), 2)
    machines[1] = replace(machines[1], crashes={8: 1})
    engine, _, _ = ranked(machines, LIMITS)
    assert measure_communication(engine, 8, Budget.of(LIMITS, engine)) is None


def test_two_kinds_of_steps_alternate_until_one_fails() -> None:
    order = []

    def first() -> messages.Timed:
        order.append("first")
        return timed(0.1)

    def second() -> messages.Timed | messages.Tried:
        order.append("second")
        return timed(0.3) if len(order) < 6 else failed

    failed = messages.Tried(batch_size=8, outcome=Outcome.OUT_OF_MEMORY)
    assert time_in_turns(first, second) == failed
    assert order == ["first", "second"] * 3
    assert time_in_turns(first, lambda: timed(0.3)) == (0.1, 0.3)


def timed(seconds: float) -> messages.Timed:
    return messages.Timed(
        batch_size=8, step_seconds=seconds, load_seconds=None, utilisation=None, steps=3, optimizer_steps=3
    )

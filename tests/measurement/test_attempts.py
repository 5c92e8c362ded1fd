"""Tries as trials: an error counts only where it comes in a fresh process too."""

from __future__ import annotations

import pytest

from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement.attempts import Attempts
from autobatch.records.trial import Outcome
from tests.simulated import Machine, SimulatedEngine

pytestmark = pytest.mark.usefixtures("quick_collections")


def attempts_on(machine: Machine) -> tuple[Attempts, SimulatedEngine, list[str]]:
    engine, warnings = SimulatedEngine(machine), list[str]()
    engine.open()
    attempts = Attempts(engine, warnings.append)
    attempts.dataset_size = machine.dataset_size
    return attempts, engine, warnings


def test_a_size_that_passes_is_kept_as_it_was_tried() -> None:
    attempts, engine, warnings = attempts_on(Machine(dataset_size=1000))
    trial = attempts.attempt(8, 60.0, FULL_STEPS, None)
    assert trial is not None
    assert trial.ok
    assert attempts.passed == {8: trial}
    assert trial.steps_per_epoch == 125
    assert (engine.sessions, warnings) == (1, [])


def test_an_error_of_the_size_comes_in_a_fresh_process_too_and_is_kept_as_the_first() -> None:
    attempts, engine, _ = attempts_on(Machine(failures={8: "no eights", 16: "no sixteens"}))
    attempts.attempt(4, 60.0, FULL_STEPS, None)
    for size in (8, 16):
        trial = attempts.attempt(size, 60.0, FULL_STEPS, 4)
        assert trial is not None
        assert trial.outcome is Outcome.FAILED
    assert engine.tries.count(8) == 2
    assert engine.sessions > 1
    assert attempts.first_error is not None
    assert "no eights" in str(attempts.first_error)
    assert not attempts.isolated


def test_a_state_that_can_not_be_put_back_gets_a_process_for_each_try() -> None:
    attempts, engine, warnings = attempts_on(Machine(keeps_state="hidden"))
    for size in (4, 8, 16):
        trial = attempts.attempt(size, 60.0, FULL_STEPS, None)
        assert trial is not None
        assert trial.ok
    assert attempts.isolated
    assert len(warnings) == 1
    before = engine.sessions
    attempts.attempt(32, 60.0, FULL_STEPS, None)
    assert engine.sessions == before + 1

"""The recommended size is tried again in a fresh process."""

from __future__ import annotations

import pytest

from autobatch.decision.recommender import recommend
from autobatch.measurement.budget import Budget
from autobatch.measurement.confirmation import confirm
from autobatch.records.limits import Limits, Objective
from tests.measurement.climbs import climb, forecast_machine

pytestmark = pytest.mark.usefixtures("quick_collections")


@pytest.mark.parametrize("seed", range(10))
def test_the_recommended_size_is_confirmed_in_a_fresh_process(seed: int) -> None:
    """Lightning 8028, 9625: what fits in the search has to fit in the training."""
    limits = Limits(budget_seconds=1e6)
    curve, engine = climb(forecast_machine(heap_loss=0.3, seed=seed), limits)
    curve = confirm(engine, curve, None, limits, Budget.of(limits, engine))
    assert recommend(curve, None, limits).chosen.confirmed


def test_a_size_that_fails_in_a_fresh_process_makes_room_for_the_next() -> None:
    machine = forecast_machine(dataset_size=256)
    limits = Limits(budget_seconds=1e6, objective=Objective.THROUGHPUT)
    curve, engine = climb(machine, limits)
    first = recommend(curve, None, limits).batch_size
    machine.failures[first] = "no longer"
    found = recommend(confirm(engine, curve, None, limits, Budget.of(limits, engine)), None, limits)
    assert found.batch_size < first
    assert found.chosen.confirmed


def test_an_answer_that_can_not_be_confirmed_says_so() -> None:
    machine = forecast_machine(dataset_size=4)
    limits = Limits(budget_seconds=1e6)
    curve, engine = climb(machine, limits)
    machine.failures.update(dict.fromkeys(range(9), "no longer"))
    curve = confirm(engine, curve, None, limits, Budget.of(limits, engine))
    assert any("was not confirmed in a fresh process" in warning for warning in curve.warnings)


def test_the_first_try_of_the_current_size_confirms_it() -> None:
    limits = Limits(budget_seconds=1e6, max_batch=32)
    curve, engine = climb(forecast_machine(current_batch_size=32), limits)
    sessions = engine.sessions
    curve = confirm(engine, curve, None, limits, Budget.of(limits, engine))
    answer = recommend(curve, None, limits)
    assert (answer.batch_size, answer.chosen.confirmed) == (32, True)
    assert engine.sessions == sessions


def test_another_size_than_the_first_is_confirmed_in_a_process_of_its_own() -> None:
    limits = Limits(budget_seconds=1e6, max_batch=32)
    curve, engine = climb(forecast_machine(current_batch_size=8), limits)
    sessions = engine.sessions
    curve = confirm(engine, curve, None, limits, Budget.of(limits, engine))
    assert recommend(curve, None, limits).chosen.confirmed
    assert engine.sessions == sessions + 1

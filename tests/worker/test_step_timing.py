"""Trying and timing a batch size, on a simulated device."""

from __future__ import annotations

import pytest

from autobatch.devices.oom import Cause
from autobatch.engines.messages import Timed, Tried
from autobatch.records.trial import Outcome
from autobatch.worker.step_timing import Measurer
from tests.simulated import (
    MIB,
    LargestBatch,
    Machine,
    SimulatedBackend,
    SimulatedFirstState,
    SimulatedTrainer,
)


def measurer(machine: Machine, ran: list[int] | None = None) -> Measurer:
    backend = SimulatedBackend(machine)
    trainer = SimulatedTrainer(backend, [].append if ran is None else ran.append)
    return Measurer(backend, trainer, 0, SimulatedFirstState(backend, trainer))


def test_a_try_gives_time_and_memory_of_a_step() -> None:
    machine = Machine(step_seconds=lambda size: 0.01 * size, load_seconds=0.5)
    tried = measurer(machine).try_out(8, 60.0)
    assert (tried.outcome, tried.steps, tried.optimizer_steps) == (Outcome.OK, 3, 3)
    assert tried.step_seconds == pytest.approx(0.08)
    assert tried.load_seconds == pytest.approx(4.0)
    assert tried.peak_bytes == machine.bytes_at(8) == 72 * MIB


def test_a_try_runs_on_the_largest_samples_and_then_has_no_typical_time() -> None:
    ran: list[int] = []
    tried = measurer(Machine(largest_ratio=2.0), ran).try_out(8, 60.0)
    assert (tried.outcome, tried.step_seconds, tried.load_seconds) == (Outcome.OK, None, None)
    assert all(isinstance(batch, LargestBatch) for batch in ran)
    assert tried.peak_bytes == 80 * MIB


def test_a_size_that_does_not_fit_says_in_which_phase() -> None:
    tried = measurer(Machine(total_bytes=100 * MIB)).try_out(64, 60.0)
    assert (tried.outcome, tried.cause, tried.phase) == (
        Outcome.OUT_OF_MEMORY,
        Cause.OUT_OF_MEMORY,
        "forward",
    )
    assert tried.steps == 0


def test_a_try_ends_with_its_time_after_the_steps_it_has_made() -> None:
    tried = measurer(Machine(step_seconds=lambda size: 10.0)).try_out(8, 15.0)
    assert (tried.outcome, tried.steps) == (Outcome.TIMEOUT, 2)
    assert tried.detail == "the time ended after 2 of 3 steps"


def test_the_last_step_may_end_late() -> None:
    assert measurer(Machine(step_seconds=lambda size: 10.0)).try_out(8, 25.0).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("step_seconds", "seconds", "steps"),
    [(0.02, 60.0, 3), (0.001, 60.0, 30), (0.2, 60.0, 1), (1e-6, 60.0, 200), (0.02, 0.05, 2), (0.02, 0.0, 1)],
)
def test_a_round_is_as_long_as_its_steps_need(step_seconds: float, seconds: float, steps: int) -> None:
    timed = measurer(Machine(step_seconds=lambda size: step_seconds)).time_round(8, seconds)
    assert isinstance(timed, Timed)
    # A warm-up step comes first.
    assert timed.steps == timed.optimizer_steps == steps + 1
    assert timed.step_seconds == pytest.approx(step_seconds, rel=1e-3)


def test_a_round_that_fails_is_a_try_that_failed() -> None:
    failed = measurer(Machine(total_bytes=100 * MIB)).time_round(64, 1.0)
    assert isinstance(failed, Tried)
    assert failed.outcome is Outcome.OUT_OF_MEMORY


def test_a_size_draws_the_same_samples_in_every_session() -> None:
    """Else a batch that fails by its samples would pass in a fresh process, and look like kept state."""

    def seeds(sizes: list[int]) -> list[tuple[int, int]]:
        drawn = []

        class Trainer(SimulatedTrainer):
            def load(self, batch_size: int, seed: int) -> int:
                drawn.append((batch_size, seed))
                return super().load(batch_size, seed)

        backend = SimulatedBackend(Machine())
        trainer = Trainer(backend, lambda size: None)
        measure = Measurer(backend, trainer, 7, SimulatedFirstState(backend, trainer))
        for size in sizes:
            measure.try_out(size, 60.0)
            measure.time_round(size, 60.0)
        return drawn

    after_others, alone = seeds([4, 8, 16]), seeds([16])
    assert after_others[-len(alone) :] == alone
    assert len(set(alone)) == 2


def test_a_round_is_shorter_than_a_schedule_that_ends() -> None:
    measure = measurer(Machine(step_seconds=lambda size: 0.001, schedule_steps=20))
    assert measure.try_out(8, 60.0).outcome is Outcome.OK
    for size in (8, 16, 8):
        timed = measure.time_round(size, 60.0)
        assert isinstance(timed, Timed)
        assert timed.steps == 11


@pytest.mark.parametrize("leaked_bytes", [0, MIB])
def test_memory_that_every_step_adds_is_seen_in_long_tries(leaked_bytes: int) -> None:
    measure = measurer(Machine(leaked_bytes=leaked_bytes))
    assert measure.try_out(8, 60.0).grown_bytes is None
    assert measure.try_out(8, 60.0, 6).grown_bytes == leaked_bytes


def test_memory_that_an_optimizer_collects_is_no_growth() -> None:
    """The history of LBFGS grows for its first 100 iterations."""
    measure = measurer(Machine(leaked_bytes=MIB, optimizer_collects=True))
    assert measure.try_out(8, 60.0, 6).grown_bytes is None


def test_the_peak_of_a_long_try_is_that_of_all_its_steps() -> None:
    measure = measurer(Machine())
    assert measure.try_out(8, 60.0, 6).peak_bytes == Machine().bytes_at(8)

"""A worker's replies as a trial: times, rates, and counts of what was executed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.engines.messages import Timed, Tried
from autobatch.measurement import trials
from autobatch.records.trial import Outcome


def tried(batch_size: int = 8, outcome: Outcome = Outcome.OK, **fields: object) -> Tried:
    return Tried(batch_size=batch_size, outcome=outcome, **fields)  # type: ignore[arg-type]


def timed(step_seconds: float, load_seconds: float | None = None, steps: int = 5) -> Timed:
    return Timed(
        batch_size=8,
        step_seconds=step_seconds,
        load_seconds=load_seconds,
        utilisation=None,
        steps=steps,
        optimizer_steps=steps,
    )


def test_a_try_is_a_trial_with_rates() -> None:
    trial = trials.from_try(tried(step_seconds=0.5, steps=3, optimizer_steps=3), Outcome.OK, 100)
    assert trial.samples_per_second == pytest.approx(16)
    assert (trial.samples, trial.optimizer_steps) == (24, 3)
    assert trial.steps_per_epoch == 13
    assert trial.epoch_seconds == pytest.approx(13 * 0.5)


def test_a_failed_try_has_no_rates() -> None:
    reply = tried(outcome=Outcome.OUT_OF_MEMORY, step_seconds=0.5, phase="backward", detail="no room")
    trial = trials.from_try(reply, Outcome.OUT_OF_MEMORY, 100)
    assert trial.samples_per_second is None
    assert (trial.phase, trial.detail) == ("backward", "no room")


def test_a_stream_of_unknown_length_has_no_epoch() -> None:
    trial = trials.from_try(tried(step_seconds=0.5), Outcome.OK, None)
    assert trial.samples_per_second == pytest.approx(16)
    assert (trial.steps_per_epoch, trial.epoch_seconds) == (None, None)


def test_a_try_on_the_largest_samples_has_no_throughput() -> None:
    trial = trials.from_try(tried(step_seconds=None), Outcome.OK, 100)
    assert trial.step_seconds == ()
    assert trial.samples_per_second is None
    assert trial.steps_per_epoch == 13


def test_rounds_take_the_place_of_the_rough_time() -> None:
    trial = trials.from_try(tried(step_seconds=9.0, load_seconds=1.0, steps=3), Outcome.OK, 80)
    rounds = [timed(0.5), timed(0.4, load_seconds=0.2), timed(0.6, load_seconds=0.4)]
    retimed = trials.from_rounds(trial, rounds, 80)
    assert retimed.step_seconds == (0.5, 0.4, 0.6)
    assert retimed.epoch_seconds == pytest.approx(10 * 0.5)
    assert retimed.load_seconds == pytest.approx(0.3)
    assert trials.from_rounds(trial, [], 80) is trial


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=8), st.integers(1, 8))
def test_only_the_last_rounds_give_the_time_and_all_count_as_executed(
    step_seconds: list[float], last: int
) -> None:
    trial = trials.from_try(tried(step_seconds=1.0, steps=3, optimizer_steps=3), Outcome.OK, None)
    retimed = trials.from_rounds(trial, [timed(seconds) for seconds in step_seconds], None, last)
    assert retimed.step_seconds == tuple(step_seconds[-last:])
    assert retimed.samples == 8 * (3 + 5 * len(step_seconds))
    assert retimed.optimizer_steps == 3 + 5 * len(step_seconds)

"""Two kinds of steps timed in turns: a machine that slows down slows both."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autobatch.decision.constants import MAX_REPEATS
from autobatch.engines.messages import Timed, Tried
from autobatch.measurement.interleaved import time_in_turns
from autobatch.records.trial import Outcome


def timed(step_seconds: float) -> Timed:
    return Timed(
        batch_size=8,
        step_seconds=step_seconds,
        load_seconds=None,
        utilisation=None,
        steps=1,
        optimizer_steps=1,
    )


def test_a_machine_that_slows_down_slows_both_kinds() -> None:
    """Timed one after the other, the second kind would seem twice as slow."""
    slowness = iter(1 + turn / MAX_REPEATS for turn in range(2 * MAX_REPEATS))
    first, second = time_in_turns(lambda: timed(next(slowness)), lambda: timed(next(slowness)))
    assert second / first == pytest.approx(1, rel=0.1)


def test_a_single_slow_round_does_not_count() -> None:
    rounds = iter([1.0] * 3 + [50.0] + [1.0] * (MAX_REPEATS - 4))
    assert time_in_turns(lambda: timed(next(rounds)), lambda: timed(2.0)) == (1.0, 2.0)


def test_kinds_take_turns_and_a_failure_ends_them() -> None:
    calls: list[str] = []
    failure = Tried(batch_size=8, outcome=Outcome.CRASHED)

    def round_of(kind: str, reply: Timed | Tried) -> Callable[[], Timed | Tried]:
        return lambda: (calls.append(kind), reply)[1]

    assert time_in_turns(round_of("a", timed(1.0)), round_of("b", failure)) is failure
    assert calls == ["a", "b"]

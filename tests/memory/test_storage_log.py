"""The log of a step's storages: its peak, and the lines that give it at any batch size."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.memory_forecast import live_bytes
from autobatch.memory.storage_log import (
    Birth,
    Death,
    Event,
    align,
    envelope,
    events_at,
    lines_of,
    order_deaths,
    peak_bytes,
)
from autobatch.records.trial import MemoryLine

# A storage: bytes without samples, bytes a sample, and how many births it outlives.
storages = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 500), st.integers(0, 6)), min_size=1, max_size=30
)


def log_of(made: Sequence[tuple[int, int, int]], batch_size: int) -> tuple[Event, ...]:
    """The log of a step at one size: each storage dies after its number of further births."""
    events: list[Event] = []
    ends: dict[int, list[int]] = {}
    for number, (fixed, sample, outlives) in enumerate(made):
        events += [Death(gone) for gone in ends.pop(number, [])]
        events.append(Birth(number, fixed + sample * batch_size))
        ends.setdefault(number + 1 + outlives, []).append(number)
    return order_deaths(events)


@given(storages, st.integers(1, 5000))
def test_the_lines_of_two_traces_give_the_peak_at_any_size(
    made: list[tuple[int, int, int]], batch_size: int
) -> None:
    lifetimes = align(log_of(made, 4), 4, log_of(made, 8), 8)
    assert lifetimes is not None
    assert events_at(lifetimes, batch_size) == log_of(made, batch_size)
    assert abs(live_bytes(lines_of(lifetimes), batch_size) - peak_bytes(log_of(made, batch_size))) < 1


@given(st.lists(st.tuples(st.integers(-100, 1000), st.integers(0, 50)), min_size=1), st.integers(1, 3000))
def test_an_envelope_is_as_high_as_all_its_lines(pairs: list[tuple[int, int]], batch_size: int) -> None:
    lines = [MemoryLine(fixed_bytes=fixed, sample_bytes=sample) for fixed, sample in pairs]
    kept = envelope(lines)
    assert set(kept) <= set(lines)
    assert live_bytes(kept, batch_size) == live_bytes(lines, batch_size)
    assert [line.sample_bytes for line in kept] == sorted({line.sample_bytes for line in kept})


def test_traces_of_unlike_structure_are_not_aligned() -> None:
    births, other = (Birth(0, 8), Birth(1, 8)), (Birth(0, 16), Death(0))
    assert align(births, 4, other, 8) is None
    assert align(births, 4, (*births, Death(0)), 8) is None
    assert align((*births, Death(0)), 4, (*births, Death(1)), 8) is None


def test_deaths_of_one_operation_have_no_order() -> None:
    births = (Birth(0, 1), Birth(1, 1), Birth(2, 1))
    there, back = (*births, Death(2), Death(0), Birth(3, 1)), (*births, Death(0), Death(2), Birth(3, 1))
    assert order_deaths(there) == order_deaths(back)

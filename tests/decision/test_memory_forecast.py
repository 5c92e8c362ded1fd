"""What is predicted to fit: the trace corrected by real peaks, or lines through the peaks alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.memory_forecast import Memory, largest_that_fits, through_peaks
from autobatch.records.trial import MemoryLine, Outcome, Trial

MIB = 1 << 20
LINES = (
    MemoryLine(fixed_bytes=400 * MIB, sample_bytes=MIB),  # the optimizer's phase
    MemoryLine(fixed_bytes=100 * MIB, sample_bytes=8 * MIB),  # the end of the forward pass
)


def passed(size: int, peak_bytes: float) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OK, peak_bytes=int(peak_bytes))


@given(st.integers(500, 100_000), st.floats(0.4, 2.9), st.integers(1, 60))
def test_one_real_peak_corrects_the_trace(limit: int, ratio: float, size: int) -> None:
    """The phase that decides changes with the size: a line through small sizes would be far off."""
    live = max(line.at(size) for line in LINES)
    fits = largest_that_fits(Memory(limit * MIB, lines=LINES), [passed(size, ratio * live)])
    assert fits is not None
    if fits > 0:
        assert max(line.at(fits) for line in LINES) * ratio <= limit * MIB * (1 + 1e-6)
    assert max(line.at(fits + 1) for line in LINES) * ratio > limit * MIB * (1 - 1e-6)


def test_on_a_heap_a_tenth_of_the_limit_stays_free() -> None:
    """What a process takes at one size differs by some percent from the next process."""
    trials = [passed(1, 401 * MIB), passed(500, 4100 * MIB)]
    memory = Memory(10_000 * MIB, lines=LINES)
    assert largest_that_fits(memory, trials) == (10_000 - 100) // 8
    assert largest_that_fits(replace(memory, heap=True), trials) == (9000 - 100) // 8


def test_on_a_heap_all_that_the_process_held_counts() -> None:
    trial = replace(passed(100, 500 * MIB), reserved_bytes=900 * MIB)
    memory = Memory(1000 * MIB)
    assert largest_that_fits(memory, [trial]) == 200
    assert largest_that_fits(replace(memory, heap=True), [trial]) == 100


@pytest.mark.parametrize("peak", [40 * MIB, 4000 * MIB])
def test_a_trace_of_another_step_is_not_believed(peak: int) -> None:
    fits = largest_that_fits(Memory(10_000 * MIB, lines=LINES), [passed(10, peak)])
    assert fits == int(10_000 * MIB / (peak / 10))


def test_without_a_trace_lines_go_through_the_largest_peaks() -> None:
    few = [passed(8, 500 * MIB)]
    more = [*few, passed(16, 600 * MIB)]
    assert through_peaks(few) == (MemoryLine(fixed_bytes=0.0, sample_bytes=500 * MIB / 8),)
    assert through_peaks(more) == (MemoryLine(fixed_bytes=400 * MIB, sample_bytes=100 * MIB / 8),)
    assert largest_that_fits(Memory(1000 * MIB), more) == 48


def test_peaks_that_do_not_grow_are_taken_in_proportion() -> None:
    """On a heap a larger size may take less: 196 MiB at 2,048, 180 at 4,096."""
    found = [passed(2048, 196 * MIB), passed(4096, 180 * MIB)]
    assert through_peaks(found) == (MemoryLine(fixed_bytes=0.0, sample_bytes=180 * MIB / 4096),)


def test_nothing_is_predicted_without_a_limit_or_a_peak() -> None:
    assert largest_that_fits(Memory(), [passed(1, MIB)]) is None
    assert largest_that_fits(Memory(MIB), [Trial(batch_size=1, outcome=Outcome.OK)]) is None
    assert largest_that_fits(Memory(MIB), []) is None

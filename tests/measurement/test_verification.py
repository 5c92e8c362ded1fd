"""Whether a ceiling holds: on a heap, with room for what the next process may lose more than this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.memory_forecast import Memory
from autobatch.decision.trial_set import TrialSet
from autobatch.measurement.verification import HEAP_RUNS, HEAP_STEPS, VERIFY_STEPS, Verification, Verified
from autobatch.records.limits import Limits
from autobatch.records.trial import MemoryLine, Outcome, Trial

MIB = 1 << 20
SAMPLE = MIB / 2
LINES = (MemoryLine(fixed_bytes=0.0, sample_bytes=SAMPLE),)
LIMITS = Limits(max_batch=4096)
CAP = 4096


class Processes:
    """Fresh processes that take so many times what is alive, one ratio after the other."""

    def __init__(self, limit_bytes: float, ratios: Iterator[float]) -> None:
        self._limit_bytes = limit_bytes
        self._ratios = ratios
        self.asked: list[tuple[int, int]] = []

    def attempt(self, size: int, steps: int, last: bool) -> Trial:
        self.asked.append((size, steps))
        taken = next(self._ratios) * SAMPLE * size
        if taken > self._limit_bytes:
            return Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY)
        return Trial(batch_size=size, outcome=Outcome.OK, peak_bytes=int(taken), confirmed=True)


def passed(*sizes: int, ratio: float = 1.1) -> list[Trial]:
    return [
        Trial(batch_size=size, outcome=Outcome.OK, peak_bytes=int(ratio * SAMPLE * size)) for size in sizes
    ]


def verified(
    attempt: Callable[[int, int, bool], Trial | None], memory: Memory, before: list[Trial]
) -> tuple[Verified, list[Trial]]:
    """What holds in the end, looked for as the probe does: from the largest that passed, until one holds."""
    trials = list(before)
    while True:
        size = TrialSet(tuple(trials)).largest_passed
        assert size is not None
        found = Verification(attempt, memory, LIMITS).run(TrialSet(tuple(trials)), size, CAP)
        trials += found.trials
        if not found.failed:
            return found, trials


def test_a_device_s_own_allocator_is_asked_once_at_the_size_itself() -> None:
    processes = Processes(200 * MIB, cycle([1.1]))
    found, _ = verified(processes.attempt, Memory(200 * MIB, lines=LINES), passed(360))
    assert found.batch_size == 360
    assert processes.asked == [(360, VERIFY_STEPS)]


def test_a_heap_is_asked_in_more_processes_and_keeps_room_for_another_s_losses() -> None:
    processes = Processes(200 * MIB, cycle([1.10, 1.12]))
    found, _ = verified(processes.attempt, Memory(200 * MIB, heap=True, lines=LINES), passed(310, 330, 350))
    assert found.batch_size is not None
    assert [size for size, _ in processes.asked].count(found.batch_size) == HEAP_RUNS
    assert {steps for _, steps in processes.asked} == {HEAP_STEPS}
    # 357 would fit the worse of the two to the last byte; 4% of the samples stay free, and 2% are not worth
    # another process.
    assert 0.92 * 357 <= found.batch_size <= 0.98 * 357


def test_what_ran_out_of_memory_counts_as_a_peak() -> None:
    """One process in three loses much more: below what it died of, room is left as for any peak."""
    processes = Processes(200 * MIB, cycle([1.21, 1.10, 1.11]))
    found, trials = verified(
        processes.attempt, Memory(200 * MIB, heap=True, lines=LINES), passed(310, 330, 345, 350)
    )
    died = [trial.batch_size for trial in trials if trial.outcome is Outcome.OUT_OF_MEMORY]
    assert len(died) == 1
    assert found.batch_size is not None
    assert 0.92 * died[0] <= found.batch_size <= 0.96 * died[0]


def test_what_the_first_process_took_decides_the_size_of_the_second() -> None:
    processes = Processes(200 * MIB, cycle([1.14, 1.12]))
    found, _ = verified(processes.attempt, Memory(200 * MIB, heap=True, lines=LINES), passed(310, 330))
    (first, _), (second, _) = processes.asked
    assert second == found.batch_size
    assert second < 0.98 * first


def test_a_process_that_the_kernel_killed_counts_unless_its_size_passed_later() -> None:
    memory = Memory(200 * MIB, heap=True, lines=LINES)
    killed = Trial(batch_size=345, outcome=Outcome.CRASHED, detail="killed by SIGKILL")
    alive = passed(310, 330, 345)

    def wanted(trials: list[Trial]) -> int:
        return Verification(lambda *_: None, memory, LIMITS).run(TrialSet(tuple(trials)), 330, CAP).wanted

    assert wanted([*alive, killed]) < 0.97 * wanted(alive)
    assert wanted([killed, *alive]) == wanted(alive)


def test_no_time_left_is_told_with_the_size_that_was_wanted() -> None:
    found = Verification(lambda *_: None, Memory(200 * MIB, heap=True, lines=LINES), LIMITS).run(
        TrialSet(tuple(passed(310, 330, 350))), 350, CAP
    )
    assert found.batch_size is None
    assert not found.failed
    assert found.wanted < 350


@settings(deadline=None)
@given(
    st.lists(st.floats(1.0, 1.3), min_size=3, max_size=12),
    st.integers(200, 350),
    st.floats(0.8, 1.2),
)
def test_it_ends_with_a_size_that_held_below_all_that_failed(
    ratios: list[float], size: int, first: float
) -> None:
    processes = Processes(200 * MIB, cycle(ratios))
    memory = Memory(200 * MIB, heap=True, lines=LINES)
    found, trials = verified(processes.attempt, memory, passed(*range(1, size, 8), ratio=first))
    died = [trial.batch_size for trial in trials if not trial.ok]
    assert found.batch_size is not None
    assert found.batch_size < min(died, default=CAP)
    assert len(died) == len(set(died))
    assert trials[-1].batch_size == found.batch_size
    assert trials[-1].ok


@settings(deadline=None)
@given(st.integers(370, 420))
def test_what_ran_out_of_memory_far_above_says_nothing(size: int) -> None:
    memory = Memory(200 * MIB, heap=True, lines=LINES)
    died = Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY)

    def wanted(before: list[Trial]) -> int:
        return Verification(lambda *_: None, memory, LIMITS).run(TrialSet(tuple(before)), 350, CAP).wanted

    assert wanted([*passed(310, 330, 350), died]) >= wanted(passed(310, 330, 350)) - 1

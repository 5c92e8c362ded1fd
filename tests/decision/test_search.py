"""The search for the next size, against a simulated memory limit: it ends, at the ceiling, in few tries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.memory_forecast import Memory
from autobatch.decision.reach import Stop, Trace, Try
from autobatch.decision.search import next_move
from autobatch.decision.size_bounds import size_cap
from autobatch.decision.trial_set import TrialSet
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import Gain, LimitedBy, MemoryLine, Outcome, Trial

MIB = 1 << 20
MEMORY = Limits(objective=Objective.MEMORY)


@dataclass(frozen=True)
class World:
    """A step that takes `fixed_bytes` and `sample_bytes` a sample, of which a trace sees `traced_share`."""

    limit_bytes: int = 1000 * MIB
    fixed_bytes: int = 100 * MIB
    sample_bytes: int = MIB
    traced_share: float | None = 1.0
    heap: bool = False
    failures: frozenset[int] = frozenset()

    @property
    def ceiling(self) -> int:
        return max(0, (self.limit_bytes - self.fixed_bytes) // self.sample_bytes)

    def tried(self, size: int) -> Trial:
        """A doubling doubles the throughput, so that no plateau ends the search."""
        peak_bytes = self.fixed_bytes + size * self.sample_bytes
        if size in self.failures:
            return Trial(batch_size=size, outcome=Outcome.FAILED)
        if peak_bytes > self.limit_bytes:
            return Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY)
        gain = Gain(over=max(1, size // 2), ratio=2.0, low=1.9, high=2.1, rounds=3, decided=True)
        return Trial(batch_size=size, outcome=Outcome.OK, peak_bytes=peak_bytes, gain=gain)

    @property
    def lines(self) -> tuple[MemoryLine, ...]:
        if self.traced_share is None:
            return ()
        fixed_bytes, sample_bytes = self.fixed_bytes, self.sample_bytes
        return (
            MemoryLine(
                fixed_bytes=self.traced_share * fixed_bytes, sample_bytes=self.traced_share * sample_bytes
            ),
        )


def searched(
    world: World, limits: Limits = MEMORY, dataset_size: int | None = None, most_tries: int = 60
) -> tuple[TrialSet, Stop, Memory]:
    """The trials of a whole search, its end, and the memory that it knew."""
    trial_set, memory = TrialSet(), Memory(world.limit_bytes, heap=world.heap)
    for _ in range(most_tries):
        move = next_move(trial_set, limits, dataset_size, memory)
        if isinstance(move, Stop):
            return trial_set, move, memory
        if isinstance(move, Trace):
            assert memory.lines is None, "a step is traced once"
            memory = replace(memory, lines=world.lines)
            continue
        assert move.batch_size not in trial_set.latest, "no size is tried twice"
        assert move.batch_size % limits.multiple_of == 0
        assert limits.smallest <= move.batch_size <= size_cap(limits, dataset_size)[0]
        trial_set = trial_set.extended([world.tried(move.batch_size)])
    pytest.fail("the search does not end")


worlds = st.builds(
    World,
    limit_bytes=st.integers(1, 8000).map(lambda mib: mib * MIB),
    fixed_bytes=st.integers(0, 500).map(lambda mib: mib * MIB),
    sample_bytes=st.integers(MIB // 8, 64 * MIB),
    traced_share=st.none() | st.floats(0.2, 4.0),
)
limits_of_searches = st.builds(
    Limits,
    min_batch=st.integers(1, 16),
    max_batch=st.none() | st.integers(64, 5000),
    multiple_of=st.sampled_from([1, 1, 2, 8]),
    objective=st.sampled_from(list(Objective)),
    ceiling=st.booleans(),
)


@given(worlds, limits_of_searches, st.none() | st.integers(64, 10_000))
def test_with_an_exact_allocator_the_ceiling_is_exact(
    world: World, limits: Limits, dataset_size: int | None
) -> None:
    trial_set, stop, _ = searched(world, limits, dataset_size)
    cap, reason = size_cap(limits, dataset_size)
    step = limits.multiple_of
    largest = min(world.ceiling // step * step, cap)
    if largest < limits.smallest:
        assert (trial_set.largest_passed, stop.limited_by) == (None, LimitedBy.MEMORY)
        return
    assert trial_set.largest_passed == largest
    assert stop.limited_by is (reason if largest == cap else LimitedBy.MEMORY)


@given(worlds)
def test_a_good_forecast_saves_tries(world: World) -> None:
    world = replace(world, traced_share=1.0)
    trial_set, _, _ = searched(world)
    assert len(trial_set.trials) <= 5
    assert sum(not trial.ok for trial in trial_set.trials) <= 2


def test_doubling_never_jumps_over_the_forecast() -> None:
    trial_set, _, _ = searched(World(), Limits())
    sizes = [trial.batch_size for trial in trial_set.trials]
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 901]


def moves(trials: list[Trial], memory: Memory, limits: Limits = MEMORY) -> Try | Trace | Stop:
    return next_move(TrialSet(tuple(trials)), limits, None, memory)


def passed(size: int, peak_mib: int = 0) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OK, peak_bytes=peak_mib * MIB or None)


def failed(size: int, outcome: Outcome = Outcome.OUT_OF_MEMORY) -> Trial:
    return Trial(batch_size=size, outcome=outcome)


IN_PROPORTION = Memory(1000 * MIB, lines=(MemoryLine(fixed_bytes=0.0, sample_bytes=float(MIB)),))


def test_a_crash_counts_from_the_second_time_on() -> None:
    crashed = failed(16, Outcome.CRASHED)
    assert moves([passed(8, 8), crashed], IN_PROPORTION) == Try(16)
    again = moves([passed(8, 8), crashed, crashed], IN_PROPORTION)
    assert again == Try(12, timed=False)


@pytest.mark.parametrize("hole", [9, 512, 900])
def test_a_hole_is_stepped_over(hole: int) -> None:
    world = World(failures=frozenset({hole}))
    trial_set, stop, _ = searched(world, Limits())
    assert trial_set.largest_passed == (899 if hole == 900 else world.ceiling)
    assert stop.limited_by is LimitedBy.MEMORY


def test_two_flat_doublings_end_the_search_unless_the_ceiling_was_asked_for() -> None:
    flat = Gain(over=8, ratio=1.0, low=0.9, high=1.1, rounds=8, decided=True)
    trials = [passed(8, 8), replace(passed(16, 16), gain=flat), replace(passed(32, 32), gain=flat)]
    stop = moves(trials, IN_PROPORTION, Limits())
    assert isinstance(stop, Stop)
    assert stop.limited_by is LimitedBy.PLATEAU
    assert moves(trials, IN_PROPORTION, Limits(ceiling=True)) == Try(1000, timed=False)


def test_the_current_size_comes_first() -> None:
    trial_set = TrialSet()
    assert next_move(trial_set, Limits(), None, current_size=50) == Try(50)
    assert next_move(trial_set, Limits(), 20, current_size=50) == Try(20)
    assert next_move(trial_set, Limits(multiple_of=8), None, current_size=50) == Try(48)
    assert next_move(trial_set, Limits(min_batch=64), None, current_size=50) == Try(64)
    assert next_move(trial_set, Limits(), None) == Try(1)


@pytest.mark.parametrize("outcome", [Outcome.OUT_OF_MEMORY, Outcome.FAILED, Outcome.TIMEOUT])
def test_below_a_current_size_that_fails_the_sizes_double_from_the_smallest(outcome: Outcome) -> None:
    trials = [failed(12, outcome)]
    for size in (1, 2, 4, 8):
        assert next_move(TrialSet(tuple(trials)), Limits(), None, current_size=12) == Try(size)
        trials.append(passed(size))
    move = next_move(TrialSet(tuple(trials)), Limits(), None, current_size=12)
    following = {
        Outcome.OUT_OF_MEMORY: Try(10, timed=False),
        # An error may be of that size alone.
        Outcome.FAILED: Try(13, timed=False),
        Outcome.TIMEOUT: Stop(LimitedBy.BUDGET),
    }
    assert move == following[outcome]


def test_after_an_error_at_the_smallest_size_the_current_or_usual_size_is_tried() -> None:
    floor = [replace(failed(1, Outcome.FAILED), detail="2 samples are needed, not 1")]
    assert moves(floor, Memory(), Limits()) == Try(32)
    assert next_move(TrialSet(tuple(floor)), Limits(), None, current_size=1) == Try(32)
    same = replace(failed(32, Outcome.FAILED), detail="2 samples are needed, not 32")
    assert moves([*floor, same], Memory(), Limits()) == Stop(LimitedBy.SIZE_LIMIT, floor[0].detail)
    other = replace(same, detail="the queue holds 16")
    trials = [*floor, other]
    for size in (2, 4, 8, 16):
        assert moves(trials, Memory(), Limits()) == Try(size)
        trials.append(replace(other, batch_size=size))
    assert isinstance(moves(trials, Memory(), Limits()), Stop)

"""The search for the next size, against a simulated memory limit: it ends, at the ceiling, in few tries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.constants import MEMORY_MARGIN
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.search import (
    Stop,
    Trace,
    Try,
    extra_sizes,
    largest_divisor,
    next_move,
    size_cap,
    size_to_confirm,
)
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


@given(worlds, limits_of_searches)
def test_on_a_heap_the_size_to_confirm_leaves_the_margin(world: World, limits: Limits) -> None:
    world = replace(world, heap=True)
    trial_set, stop, memory = searched(world, limits)
    if trial_set.largest_passed is None or stop.limited_by is not LimitedBy.MEMORY:
        return
    size = size_to_confirm(trial_set, limits, None, memory)
    assert size is not None
    room_bytes = (1 - MEMORY_MARGIN) * world.limit_bytes
    needed_bytes = world.fixed_bytes + size * world.sample_bytes
    # Where even the smallest size takes more, the largest that passed has to be confirmed without a margin.
    least_bytes = world.fixed_bytes + limits.smallest * world.sample_bytes
    assert needed_bytes <= room_bytes or (least_bytes > room_bytes and size == trial_set.largest_passed)
    step = limits.multiple_of
    fitting = (room_bytes - world.fixed_bytes) / world.sample_bytes
    assert size >= min((1 - 2 * MEMORY_MARGIN) * fitting, size_cap(limits, None)[0]) - step


@given(worlds, st.integers(2, 2000))
def test_a_size_that_fails_to_be_confirmed_leads_to_a_smaller_one(world: World, bound: int) -> None:
    """Fresh processes take more than those of the climb, so that all sizes from `bound` on fail."""
    world = replace(world, heap=True)
    trial_set, stop, memory = searched(world)
    confirmed = None
    while trial_set.largest_passed is not None and stop.limited_by is LimitedBy.MEMORY:
        size = size_to_confirm(trial_set, MEMORY, None, memory)
        assert size is not None
        assert size not in {trial.batch_size for trial in trial_set.trials if not trial.ok}
        if size < bound:
            confirmed = size
            break
        trial_set = trial_set.extended([Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY)])
        while isinstance(move := next_move(trial_set, MEMORY, None, memory), Try):
            trial_set = trial_set.extended([world.tried(move.batch_size)])
        assert isinstance(move, Stop)
        stop = move
    assert confirmed is not None or world.ceiling == 0 or stop.limited_by is not LimitedBy.MEMORY


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


@pytest.mark.parametrize(
    ("trials", "following"),
    [
        # Only the ceiling counts, so the search jumps to the forecast.
        ([passed(1, 1)], 1000),
        # The forecast was right: the next size shows that nothing larger fits.
        ([passed(1, 1), passed(1000, 1000)], 1001),
        # Too low: the steps above it grow.
        ([passed(1, 1), passed(990, 1000), passed(1000, 1010)], 1020),
        # Too high: a tenth of the gap back, then two tenths of what is left.
        ([passed(100, 100), failed(1000)], 910),
        ([passed(100, 100), failed(1000), failed(910)], 748),
        # Without a forecast the gap is halved.
        ([passed(100), failed(200)], 150),
    ],
)
def test_with_a_forecast(trials: list[Trial], following: int) -> None:
    assert moves(trials, IN_PROPORTION) == Try(following, timed=False)


def test_a_failure_next_to_the_largest_success_ends_the_search() -> None:
    assert moves([passed(100, 100), failed(101)], IN_PROPORTION) == Stop(LimitedBy.MEMORY)
    hung = failed(200, Outcome.TIMEOUT)
    assert moves([passed(100, 100), hung], IN_PROPORTION) == Stop(LimitedBy.BUDGET)


def test_a_heap_is_searched_to_its_margin_only() -> None:
    heap = replace(IN_PROPORTION, heap=True)
    assert moves([passed(100, 100)], heap) == Try(200, timed=False)
    assert moves([passed(512, 512)], heap) == Try(900, timed=False)
    near = moves([passed(500, 500), passed(850, 850)], heap)
    assert isinstance(near, Stop)
    assert near.limited_by is LimitedBy.MEMORY
    assert moves([passed(500, 500), failed(700)], heap) == Try(630, timed=False)
    assert moves([passed(650, 650), failed(700)], heap) == Stop(LimitedBy.MEMORY)


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


def test_errors_of_small_sizes_are_a_floor_up_to_eight_times_the_smallest() -> None:
    limits, errors = Limits(min_batch=3), []
    for size in (3, 6, 12, 24):
        assert moves(errors, Memory(), limits) == Try(size)
        errors.append(failed(size, Outcome.FAILED))
    assert moves(errors, Memory(), limits) == Stop(LimitedBy.SIZE_LIMIT)


def test_two_flat_doublings_end_the_search_unless_the_ceiling_was_asked_for() -> None:
    flat = Gain(over=8, ratio=1.0, low=0.9, high=1.1, rounds=8, decided=True)
    trials = [passed(8, 8), replace(passed(16, 16), gain=flat), replace(passed(32, 32), gain=flat)]
    stop = moves(trials, IN_PROPORTION, Limits())
    assert isinstance(stop, Stop)
    assert stop.limited_by is LimitedBy.PLATEAU
    assert moves(trials, IN_PROPORTION, Limits(ceiling=True)) == Try(1000, timed=False)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 2, 8]))
def test_the_largest_divisor_is_one(global_batch: int, at_most: int, multiple_of: int) -> None:
    limits = Limits(multiple_of=multiple_of)
    sizes = range(multiple_of, min(at_most, global_batch) + 1, multiple_of)
    divisors = [size for size in sizes if global_batch % size == 0]
    assert largest_divisor(global_batch, at_most, limits) == max(divisors, default=None)


def test_the_current_size_and_a_divisor_are_measured_too() -> None:
    tried = TrialSet((passed(64, 64), passed(96, 96)))
    limits = Limits(global_batch=96)
    assert extra_sizes(tried, limits, 50, 64) == (48, 50)
    assert extra_sizes(tried, limits, 64, 64) == (48,)
    assert extra_sizes(tried, limits, 100, 96) == ()

"""Views of a set of trials: the last trial of a size counts, the ceiling bounds every usable size."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.trial_set import TrialSet, limit_of, throughput
from autobatch.records.trial import Gain, LimitedBy, Outcome, Trial

SECONDS = (0.1, 0.11, 0.12)


def passed(size: int, seconds: tuple[float, ...] = SECONDS) -> Trial:
    rate = size / sorted(seconds)[len(seconds) // 2] if seconds else None
    return Trial(batch_size=size, outcome=Outcome.OK, step_seconds=seconds, samples_per_second=rate)


def failed(size: int, outcome: Outcome = Outcome.OUT_OF_MEMORY, detail: str = "") -> Trial:
    return Trial(batch_size=size, outcome=outcome, detail=detail)


trials = st.lists(
    st.builds(
        Trial,
        batch_size=st.integers(1, 64),
        outcome=st.sampled_from(Outcome),
        step_seconds=st.lists(st.floats(0.001, 1.0), max_size=4).map(tuple),
    ),
    max_size=12,
).map(tuple)


def test_the_last_trial_of_a_size_counts() -> None:
    trial_set = TrialSet((passed(8), passed(16), failed(16)))
    assert [trial.batch_size for trial in trial_set.passed] == [8]
    assert trial_set.latest[16].outcome is Outcome.OUT_OF_MEMORY


def test_the_ceiling_bounds_what_may_be_used_and_timed() -> None:
    trial_set = TrialSet((passed(64), passed(8), passed(16)), ceiling=16)
    assert [trial.batch_size for trial in trial_set.usable] == [8, 16]
    assert [trial.batch_size for trial in trial_set.timed] == [8, 16]
    assert [trial.batch_size for trial in trial_set.passed] == [8, 16, 64]


def test_sizes_timed_in_rounds_take_precedence_over_rough_times() -> None:
    rough, untimed = passed(32, (0.1,)), passed(64, ())
    assert TrialSet((passed(8), rough, untimed)).timed == (passed(8),)
    assert TrialSet((rough, untimed)).timed == (rough,)
    assert TrialSet((untimed,)).timed == ()
    assert TrialSet((untimed,)).step_time is None


def test_sizes_of_few_rounds_count_where_a_search_ended_before_it_had_enough_of_two() -> None:
    gain = Gain(over=8, ratio=1.8, low=1.5, high=2.1, rounds=1, decided=False)
    compared = replace(passed(16, (0.1,)), gain=gain)
    first, second, rough = passed(8), passed(32), passed(64, (0.1,))
    assert TrialSet((first, compared, rough)).timed == (first, compared)
    assert TrialSet((first, compared, rough, second)).timed == (first, second)


def test_the_best_has_the_highest_throughput() -> None:
    slow = passed(64, (10.0, 10.0, 10.0))
    assert TrialSet((passed(8), slow)).best == passed(8)
    assert TrialSet().best is None
    assert throughput(passed(8, ())) == 0.0


def test_no_size_above_one_that_ran_out_of_memory_is_the_largest() -> None:
    assert TrialSet((passed(8), failed(16), passed(32))).largest_passed == 8
    assert TrialSet((failed(1),)).largest_passed is None


def test_an_error_with_a_success_right_above_it_is_a_hole() -> None:
    hole = failed(16, Outcome.FAILED)
    trial_set = TrialSet((passed(8), hole, passed(17)))
    assert trial_set.holes(1) == {16}
    assert trial_set.smallest_failure_above(8) is None
    assert TrialSet((passed(8), hole)).smallest_failure_above(8) == hole
    assert TrialSet((failed(15, Outcome.FAILED), hole)).persists(16, 1)


def test_the_nearest_size_lies_below_where_it_can() -> None:
    trial_set = TrialSet((passed(8), passed(32)), ceiling=32)
    assert trial_set.nearest(16) == passed(8)
    assert trial_set.nearest(4) == passed(8)
    assert TrialSet().nearest(4) is None


def test_a_process_that_the_kernel_killed_ran_out_of_memory() -> None:
    assert limit_of(failed(8, Outcome.CRASHED, "killed by SIGKILL")) is LimitedBy.MEMORY
    assert limit_of(failed(8, Outcome.CRASHED, "killed by SIGSEGV")) is LimitedBy.SIZE_LIMIT
    assert limit_of(failed(8, Outcome.TIMEOUT)) is LimitedBy.BUDGET


@given(trials, st.integers(1, 64))
def test_views_are_nested_and_sorted(several: tuple[Trial, ...], ceiling: int) -> None:
    trial_set = TrialSet(several, ceiling)
    for view in (trial_set.passed, trial_set.usable, trial_set.timed):
        sizes = [trial.batch_size for trial in view]
        assert sizes == sorted(set(sizes))
    assert set(trial_set.timed) <= set(trial_set.usable) <= set(trial_set.passed)
    assert all(trial.ok and trial.batch_size <= ceiling for trial in trial_set.usable)
    assert (trial_set.step_time is None) == (not trial_set.timed)


@given(trials, trials)
def test_a_longer_set_is_the_set_of_all_its_trials(
    first: tuple[Trial, ...], second: tuple[Trial, ...]
) -> None:
    assert TrialSet(first).extended(second) == TrialSet(first + second)


def test_the_floor_is_the_smallest_size_that_trains_where_a_smaller_one_does_not() -> None:
    sizes = (passed(8), passed(16))
    assert TrialSet((*sizes, failed(4, Outcome.FAILED))).floor == 8
    assert TrialSet((*sizes, failed(32, Outcome.FAILED))).floor == 1
    assert TrialSet((*sizes, failed(4))).floor == 1
    assert TrialSet(()).floor == 1


def test_a_smaller_size_takes_no_more_memory_than_a_larger_one_that_passed() -> None:
    peaks = {64: 1000, 128: 2000, 16: 9000, 8: 10, 256: 9000}
    kept = TrialSet(tuple(replace(passed(size), peak_bytes=peak) for size, peak in peaks.items()))
    corrected = {trial.batch_size: trial.peak_bytes for trial in kept.without_kept_memory().trials}
    assert corrected == peaks | {16: 1000}
    unknown = TrialSet((passed(64), failed(128)))
    assert unknown.without_kept_memory() == unknown

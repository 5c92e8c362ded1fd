"""Loading beside training: when it is timed, with how many workers, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.constants import TOLERANCE
from autobatch.decision.recommender import recommend
from autobatch.devices.host import usable_processors
from autobatch.measurement.budget import Budget
from autobatch.measurement.climb import Climb
from autobatch.measurement.loading import Loading, next_workers, notable
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Curve, Loader, LoaderTiming
from autobatch.reports.text import terminal
from tests.simulated import Machine, SimulatedEngine

LIMITS = Limits(budget_seconds=600.0)


def machine(load_seconds: float, workers: int | None = None, **more: object) -> Machine:
    """A step takes 10 ms and 0.1 ms a sample: the best throughput is that of 512 samples."""
    made = Machine(dataset_size=512, load_seconds=load_seconds, workers=workers)
    return replace(made, **more)  # type: ignore[arg-type]


@cache
def climbed() -> Curve:
    """A climb on samples that load in no time."""
    return Climb(SimulatedEngine(machine(0.0)), LIMITS).run()


def curve_of(made: Machine) -> Curve:
    """The same climb where samples take their time to load."""
    found = climbed()
    trials = (replace(t, load_seconds=t.batch_size * made.load_seconds) for t in found.trials)
    return replace(found, trials=tuple(trials), workload=replace(found.workload, workers=made.workers))


def loading(engine: SimulatedEngine, curve: Curve, limits: Limits, processors: int) -> Loading:
    return Loading(engine, curve, limits, Budget.of(limits, engine), processors)


def measured(made: Machine, limits: Limits = LIMITS) -> tuple[Curve, SimulatedEngine]:
    engine, curve = SimulatedEngine(made), curve_of(made)
    return replace(curve, loader=loading(engine, curve, limits, made.processors).run()), engine


def answer(made: Machine, limits: Limits = LIMITS) -> Recommendation:
    return recommend(measured(made, limits)[0], None, limits)


def asked(engine: SimulatedEngine) -> list[int]:
    return [command.workers for command in engine.loader_commands]


def said(found: Recommendation, label: str) -> str:
    """The report's paragraph of that label, on one line."""
    shown = terminal.render(found, width=100, verbose=True).split("\n")
    start = next(i for i, line in enumerate(shown) if line.startswith(label))
    end = next(i for i in range(start + 1, len(shown)) if not shown[i].startswith(" "))
    return " ".join(line[9:].strip() for line in shown[start:end])


@pytest.mark.slow
def test_loading_that_hardly_takes_time_is_not_timed() -> None:
    curve, engine = measured(machine(1e-6))
    assert curve.loader is None
    assert asked(engine) == []


def test_workers_that_keep_up_are_enough() -> None:
    """In one process it takes as long as half a step: one worker hides it all."""
    curve, engine = measured(machine(6e-5, workers=1))
    assert asked(engine) == [1]
    assert curve.loader is not None
    assert curve.loader.batch_size == 512
    assert (curve.loader.workers, curve.loader.sufficient_workers) == (1, 1)
    found = recommend(curve)
    assert said(found, "loading").endswith(": that is enough")
    assert not any("loading" in warning for warning in found.warnings)


@pytest.mark.slow
def test_the_number_that_lifts_the_bound_is_the_first_that_is_quicker_than_the_step() -> None:
    """Three steps' time in one process: 4 workers are the first power of two above that."""
    made = machine(3.6e-4)
    engine = SimulatedEngine(made)
    curve = Climb(engine, LIMITS).run()
    curve = replace(curve, loader=loading(engine, curve, LIMITS, made.processors).run())
    assert asked(engine) == [0, 1, 2, 4]
    assert curve.loader is not None
    assert (curve.loader.workers, curve.loader.sufficient_workers) == (0, 4)
    assert said(recommend(curve), "loading") == (
        "with 0 workers (torch's default) 2,085 samples/s at 512, training alone 8,366; with 4 workers "
        "8,366 (measured)"
    )


def test_where_no_number_lifts_it_what_to_expect_is_said() -> None:
    made = machine(2.4e-3, workers=2, processors=6)
    found = answer(made)
    assert found.loader is not None
    assert [one.workers for one in found.loader.timings] == [2, 4, 6]
    assert found.loader.sufficient_workers is None
    (warning,) = [one for one in found.warnings if "loading" in one]
    assert warning == (
        "loading is the bottleneck: the best of 2, 4, 6 workers is 6, with 2,500 samples/s at batch size 512 "
        "(205 ms an epoch): speed up the data set"
    )
    assert said(found, "loading").endswith(": loading is the bottleneck")


def test_more_workers_than_processors_are_compared_with_fewer() -> None:
    _, engine = measured(machine(2.4e-3, workers=16, processors=3))
    assert asked(engine) == [16, 1, 2, 3]


@pytest.mark.parametrize(("workers", "timed"), [(0, [0]), (2, [2])])
def test_a_loader_that_fails_is_told_and_not_tried_again(workers: int, timed: list[int]) -> None:
    error = "ValueError: bad image"
    found = answer(machine(1e-3, workers=workers, loader_errors={workers: error}))
    assert found.loader is not None
    assert [one.workers for one in found.loader.timings] == timed
    assert found.loader.timings[0].detail == error
    assert f"a DataLoader with {workers} workers gave no batches: {error}" in found.warnings
    assert said(found, "loading") == f"a DataLoader with your {workers} workers failed"


def test_a_failure_of_more_workers_leaves_what_the_others_showed() -> None:
    found = answer(machine(1e-3, loader_errors={2: "OSError: too many open files"}))
    assert found.loader is not None
    assert [one.workers for one in found.loader.timings] == [0, 1, 2]
    assert [warning.split(":")[0] for warning in found.warnings if "worker" in warning] == [
        "loading is the bottleneck",
        "a DataLoader with 2 workers gave no batches",
    ]


def test_a_loader_that_can_not_be_timed_is_not_mentioned() -> None:
    curve, engine = measured(machine(1e-3, loader_errors={0: ""}))
    assert asked(engine) == [0]
    assert curve.loader is None


def test_without_time_nothing_is_timed_and_only_a_grave_case_is_warned_of() -> None:
    limits = Limits(budget_seconds=2.0)
    for load_seconds, warned in ((5e-5, False), (5e-3, True)):
        made = machine(load_seconds)
        engine, curve = SimulatedEngine(made), curve_of(made)
        engine.busy_seconds = limits.budget_seconds
        loader = loading(engine, curve, limits, 8).run()
        assert loader is not None
        assert loader.timings == ()
        found = recommend(replace(curve, loader=loader))
        assert any("loading may be the bottleneck" in warning for warning in found.warnings) == warned
        assert "loader" not in terminal.render(found).split("\n")[-1]


def test_a_batch_that_loads_in_an_unknown_time_is_timed() -> None:
    curve, _ = measured(machine(0.0))
    unknown = tuple(replace(trial, load_seconds=None) for trial in curve.trials)
    assert notable(curve) is None
    assert notable(replace(curve, trials=unknown)) is not None
    synthetic = replace(curve.workload, synthetic=True)
    assert notable(replace(curve, trials=unknown, workload=synthetic)) is None


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.0, 1e-2),
    st.none() | st.integers(0, 20),
    st.integers(1, 16),
    st.floats(3.0, 120.0),
)
def test_any_loading_comes_to_an_end_within_its_share(
    load_seconds: float, workers: int | None, processors: int, budget: float
) -> None:
    limits = Limits(budget_seconds=budget)
    made = machine(load_seconds, workers, processors=processors)
    engine, curve = SimulatedEngine(made), curve_of(made)
    before = engine.busy_seconds = 0.65 * budget
    loader = loading(engine, curve, limits, processors).run()
    # The last timing may take as long as two batches, for which there was time when it began.
    assert engine.busy_seconds <= max(before, min(budget, before + 0.1 * budget) + 1.0)
    timed = asked(engine)
    assert len(set(timed)) == len(timed)
    if loader is None or not loader.timings:
        return
    assert timed[0] == (workers or 0)
    assert all(count <= processors for count in timed[1:])
    paces = [loader.pace_seconds(one) for one in loader.timings]
    keeps_up = [pace is not None and pace <= (1 + TOLERANCE) * loader.step_seconds for pace in paces]
    assert not any(keeps_up[:-1])
    assert loader.sufficient_workers == (timed[-1] if keeps_up[-1] else None)
    assert terminal.render(recommend(replace(curve, loader=loader)))


@given(st.integers(0, 70), st.integers(1, 64))
def test_every_number_up_to_the_processors_has_its_turn(workers: int, processors: int) -> None:
    loader = Loader(batch_size=8, workers=workers, step_seconds=0.1)
    tried = []
    while (count := next_workers(loader, processors)) is not None:
        tried.append(count)
        slow = LoaderTiming(workers=count, batch_seconds=1.0)
        loader = replace(loader, timings=(*loader.timings, slow))
    assert tried[0] == workers
    assert tried[1:] == sorted(set(tried[1:]))
    if workers < processors:
        assert tried[-1] == processors
        assert all(count > workers for count in tried[1:])
    assert all(count <= processors for count in tried[1:])


def test_pace_with_and_without_workers() -> None:
    loader = Loader(batch_size=8, workers=0, step_seconds=2.0)
    assert loader.pace_seconds(LoaderTiming(workers=0, batch_seconds=3.0)) == 5.0
    assert loader.pace_seconds(LoaderTiming(workers=1, batch_seconds=3.0)) == 3.0
    assert loader.pace_seconds(LoaderTiming(workers=4, batch_seconds=0.75)) == 2.0
    assert loader.pace_seconds(LoaderTiming(workers=4, batch_seconds=None)) is None


def test_there_is_a_processor_at_least() -> None:
    assert usable_processors() >= 1

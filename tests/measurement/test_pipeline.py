"""A whole search on a simulated device: its stages in order, its journal, and what Ctrl-C keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.climb import Observer
from autobatch.measurement.pipeline import Watch, run
from autobatch.records.device import Device
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.records.trial import LimitedBy, Trial
from autobatch.records.workload import Workload
from tests.simulated import Machine, SimulatedEngine
from tests.simulated_ranks import alike, ranked

pytestmark = pytest.mark.usefixtures("quick_collections")

LIMITS = Limits(budget_seconds=60.0, max_batch=512)
MACHINE = Machine(
    dataset_size=20_000,
    current_batch_size=32,
    step_seconds=lambda size: 2e-3 + 2e-5 * size,
    load_seconds=1e-4,
    noise_scale=200.0,
    critical_batch_size=400.0,
)
STAGES = (
    "trying",
    "timing the data loader",
    "comparing losses",
    "measuring the noise",
    "training at",
    "confirming the answer",
)


class Announcements(Observer):
    """Keeps the announcements; stops the search by Ctrl-C at one of them."""

    def __init__(self, stop_at: str = "never") -> None:
        self._stop_at = stop_at
        self.heard: list[str] = []

    def trying(self, batch_size: int) -> None:
        self._hear(f"trying {batch_size}")

    def checking(self, what: str) -> None:
        self._hear(what)

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if what.startswith(self._stop_at):
            raise KeyboardInterrupt


class Rows:
    """A journal in memory."""

    def __init__(self) -> None:
        self.header: tuple[Workload, Device, Limits, int] | None = None
        self.trials: list[Trial] = []
        self.is_finished = False

    def opened(
        self,
        workload: Workload,
        device: Device,
        limits: Limits,
        environment: Environment,
        *,
        world_size: int = 1,
    ) -> None:
        assert environment.torch == "none"
        self.header = workload, device, limits, world_size

    def tried(self, trial: Trial) -> None:
        self.trials.append(trial)

    def finished(self) -> None:
        self.is_finished = True


def search(
    engine: Engine, limits: Limits = LIMITS, observer: Observer | None = None, journal: Rows | None = None
) -> Recommendation:
    watch = Watch(observer, limits, journal)
    return run(engine, messages.Recipe(), limits, limits, watch, contended=False, fresh=True)


def first_words(heard: Sequence[str]) -> list[str]:
    """The stages that were announced, each once, in their order."""
    stages = [next(stage for stage in STAGES if what.startswith(stage)) for what in heard]
    return list(dict.fromkeys(stages))


def test_the_stages_follow_each_other_and_the_answer_is_confirmed() -> None:
    observer = Announcements()
    answer = search(SimulatedEngine(MACHINE), observer=observer)
    assert first_words(observer.heard) == list(STAGES)
    assert answer.chosen.confirmed
    assert answer.loader is not None
    assert answer.check is not None
    assert answer.check.trainings
    assert answer.world_size == 1
    assert answer.communication is None


def test_the_journal_has_every_row_and_ends_with_the_answer() -> None:
    engine, rows = SimulatedEngine(MACHINE), Rows()
    answer = search(engine, journal=rows)
    assert rows.header is not None
    assert (rows.header[0].target, rows.header[2:]) == ("simulated", (LIMITS, 1))
    assert [trial.batch_size for trial in rows.trials] == [trial.batch_size for trial in answer.trials]
    assert rows.is_finished


@pytest.mark.parametrize("number", range(len(STAGES)))
def test_ctrl_c_keeps_the_records_of_all_stages_before(number: int) -> None:
    stop_at = "trying 64" if number == 0 else STAGES[number]
    engine, rows = SimulatedEngine(MACHINE), Rows()
    with pytest.raises(Interrupted) as caught:
        search(engine, observer=Announcements(stop_at), journal=rows)
    assert engine.closed
    assert not rows.is_finished
    curve, check = caught.value.curve, caught.value.check
    assert curve is not None
    assert len(curve.trials) == len(rows.trials)
    assert (curve.loader is not None) == (number >= 1)
    assert (check is not None) == (number >= 2)
    assert (check is not None and check.noise_scale is not None) == (number >= 4)
    assert (check is not None and len(check.trainings) > 1) == (number >= 5)
    assert caught.value.recommendation is not None
    assert caught.value.recommendation.batch_size in {trial.batch_size for trial in curve.trials}


def test_ctrl_c_before_the_first_success_keeps_nothing() -> None:
    with pytest.raises(Interrupted) as caught:
        search(SimulatedEngine(MACHINE), observer=Announcements("trying 32"))
    assert (caught.value.curve, caught.value.recommendation) == (None, None)


def test_ranks_measure_their_communication_and_sizes_of_their_own() -> None:
    limits = Limits(budget_seconds=60.0, max_batch=512, sizes_per_rank=True)
    engine, _, _ = ranked(alike(MACHINE, 2), limits)
    answer = search(engine, limits)
    assert answer.world_size == 2
    assert answer.communication is not None
    assert answer.communication.batch_size == answer.batch_size
    assert answer.sizes_per_rank is not None
    assert answer.sizes_per_rank.detail == "the ranks are equally quick"


def test_without_a_check_the_climb_has_the_whole_budget() -> None:
    slow = Machine(step_seconds=lambda size: 0.1 * size**0.5)
    limits = Limits(budget_seconds=20.0, check=False)
    with_check = search(SimulatedEngine(slow), Limits(budget_seconds=20.0))
    without = search(SimulatedEngine(slow), limits)
    assert without.check is None
    assert len(without.trials) > len(with_check.trials)


@pytest.mark.parametrize(("budget", "start"), [(8.0, 0.5), (15.0, 0.5), (15.0, 3.0), (60.0, 3.0)])
def test_the_budget_is_wall_time_with_every_start(budget: float, start: float) -> None:
    """The start of sessions, the loader's workers and the confirmation included."""
    engine = SimulatedEngine(replace(MACHINE, crashes={}, start_seconds=start))
    answer = search(engine, Limits(budget_seconds=budget))
    assert engine.sessions > 1
    longest_try = 4 * MACHINE.step_seconds(max(engine.tries))
    assert engine.busy_seconds <= 1.1 * budget + longest_try
    unconfirmed = [warning for warning in answer.warnings if "not confirmed" in warning]
    assert answer.chosen.confirmed or unconfirmed


def test_a_start_that_takes_the_whole_budget_leaves_a_size() -> None:
    engine = SimulatedEngine(replace(MACHINE, crashes={}, start_seconds=20.0))
    answer = search(engine, Limits(budget_seconds=10.0))
    assert len(engine.tries) == 1
    assert answer.batch_size == engine.tries[0]
    assert answer.ceiling.limited_by is LimitedBy.BUDGET
    assert answer.chosen.confirmed

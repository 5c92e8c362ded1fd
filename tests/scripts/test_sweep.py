"""The climb over sizes, on a simulated script with a law of its step, a memory and a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.engines.base import Opened
from autobatch.measurement.climb import Observer
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, LimitedBy, Outcome
from autobatch.records.workload import Workload
from autobatch.scripts.engine import ScriptEngine
from autobatch.scripts.messages import Measured, Observation
from autobatch.scripts.process import ScriptEndedError
from autobatch.scripts.sweep import Sweep
from tests.scripts.observations import OBSERVED

MIB = 1 << 20


@dataclass
class SimulatedScript:
    """A script whose step takes fixed_seconds + sample_seconds x size, and that starts in start_seconds."""

    current_size: int = 32
    unit: int = 1
    ranks: int = 1
    in_place: bool = True
    start_seconds: float = 2.0
    fixed_seconds: float = 0.01
    sample_seconds: float = 1e-4
    sample_bytes: int = MIB
    memory_bytes: int = 100_000 * MIB
    busy_seconds: float = 2.0
    measured: list[int] = field(default_factory=list)
    snapshots: int = 0
    # Any other size fails by the script's own error.
    is_fixed: bool = False
    budget_seconds: float = 60.0
    observed: Observation = OBSERVED

    @property
    def session(self) -> SimulatedScript:
        return self

    @property
    def schedule(self) -> SimulatedScript:
        return self

    @property
    def end_seconds(self) -> float:
        return self.budget_seconds - self.start_seconds

    @property
    def proof_end_seconds(self) -> float:
        return 1.1 * self.budget_seconds - self.start_seconds

    def measure(self, size: int, seconds: float) -> Measured:
        step = self.fixed_seconds + self.sample_seconds * size
        self.measured.append(size)
        self.busy_seconds += 20 * step + (0 if self.in_place else self.start_seconds)
        if self.is_fixed and size != self.current_size:
            raise ScriptEndedError(Outcome.FAILED, "RuntimeError: shapes cannot be multiplied")
        if size * self.sample_bytes > self.memory_bytes:
            raise ScriptEndedError(Outcome.OUT_OF_MEMORY, "out of memory")
        return Measured(
            ended=False,
            observed_size=size,
            round_seconds=[step] * 5,
            steps=15,
            peak_bytes=size * self.sample_bytes,
        )

    def take_snapshot(self) -> None:
        self.snapshots += 1


def sweep(
    script: SimulatedScript, *, limit_bytes: int | None = None, samples: int = 1 << 20, **limits: int
) -> Curve:
    workload = Workload(
        target="train.py",
        model="Net",
        parameters=1,
        loss="",
        optimizer="SGD",
        dataset_size=samples,
        batch_size=script.current_size,
    )
    device = Device(kind="cpu", index=0, name="cpu", limit_bytes=limit_bytes)
    opened = Opened(device=device, workload=workload, torch="2.13.0", world_size=script.ranks)
    engine = cast("ScriptEngine", script)
    return Sweep(engine, opened, Limits(**limits), Observer()).run()


def test_the_scripts_own_size_is_measured_first():
    script = SimulatedScript(current_size=48)
    curve = sweep(script)
    assert script.measured[0] == 48
    assert script.snapshots == 1
    assert all(trial.ok for trial in curve.trials if trial.batch_size == 48)


def test_it_climbs_to_the_plateau_and_no_further():
    curve = sweep(SimulatedScript(fixed_seconds=0.001))
    assert curve.ceiling.limited_by is LimitedBy.PLATEAU
    rates = {trial.batch_size: trial.samples_per_second or 0 for trial in curve.trials}
    assert rates[curve.ceiling.batch_size] < 1.1 * rates[curve.ceiling.batch_size // 2]


def test_the_size_is_proven_where_the_start_has_taken_all_of_the_time():
    script = SimulatedScript(budget_seconds=30.0, start_seconds=5.0, busy_seconds=20.0, fixed_seconds=0.3)
    curve = sweep(script)
    assert script.measured == [32, 16]
    assert curve.ceiling.limited_by is LimitedBy.BUDGET


def test_slow_steps_are_proven_at_half_the_size():
    script = SimulatedScript(budget_seconds=70.0, fixed_seconds=0.5, sample_seconds=0.06, busy_seconds=8.0)
    sweep(script)
    assert script.measured[:2] == [32, 16]


def test_very_slow_steps_are_proven_at_a_smaller_size():
    script = SimulatedScript(budget_seconds=85.0, fixed_seconds=0.1, sample_seconds=0.1, busy_seconds=20.0)
    sweep(script)
    assert script.measured == [32, 8]


def test_steps_too_slow_for_the_check_leave_the_curve_all_of_the_time():
    with_check, without = (
        SimulatedScript(budget_seconds=90.0, fixed_seconds=0.6, sample_seconds=0.02) for _ in range(2)
    )
    sweep(with_check)
    sweep(without, check=False)
    assert with_check.measured == without.measured
    quick = SimulatedScript(budget_seconds=90.0, fixed_seconds=0.05)
    sweep(quick)
    assert quick.busy_seconds < with_check.busy_seconds


def test_every_size_is_timed_twice_where_there_is_time():
    curve = sweep(SimulatedScript(fixed_seconds=0.001))
    assert all(len(trial.step_seconds) == 10 for trial in curve.trials)


def test_a_size_out_of_memory_ends_the_climb():
    curve = sweep(SimulatedScript(memory_bytes=100 * MIB))
    assert curve.ceiling.limited_by is LimitedBy.MEMORY
    assert curve.ceiling.batch_size == 64
    assert {t.batch_size: t.outcome for t in curve.trials}[128] is Outcome.OUT_OF_MEMORY


def test_a_size_that_is_predicted_not_to_fit_is_not_tried():
    script = SimulatedScript()
    curve = sweep(script, limit_bytes=200 * MIB)
    assert max(script.measured) == 128
    assert curve.ceiling.limited_by is LimitedBy.MEMORY


def test_an_epoch_keeps_some_steps():
    curve = sweep(SimulatedScript(ranks=2), samples=1024)
    assert curve.ceiling.batch_size == 128
    assert curve.ceiling.limited_by is LimitedBy.DATASET


def test_it_halves_as_long_as_steps_get_shorter():
    assert min(t.batch_size for t in sweep(SimulatedScript(fixed_seconds=1e-5)).trials) == 4
    assert min(t.batch_size for t in sweep(SimulatedScript(fixed_seconds=0.05), max_batch=64).trials) == 16


def test_micro_batches_stay_whole():
    curve = sweep(SimulatedScript(current_size=36, unit=4, fixed_seconds=1e-5))
    assert all(trial.batch_size % 4 == 0 for trial in curve.trials)


def test_a_size_that_the_code_uses_elsewhere_is_refused_by_name():
    with pytest.raises(AutobatchError) as raised:
        sweep(SimulatedScript(is_fixed=True))
    assert raised.value.code == "fixed_batch_size"
    assert raised.value.facts == ("RuntimeError: shapes cannot be multiplied",)


def test_a_size_of_its_own_that_fails_is_an_error():
    with pytest.raises(AutobatchError) as raised:
        sweep(SimulatedScript(memory_bytes=MIB))
    assert raised.value.code == "current_size_fails"


@given(st.floats(1e-5, 0.5), st.floats(1e-6, 0.01), st.floats(0.1, 20.0), st.booleans(), st.integers(1, 512))
def test_the_curve_keeps_to_its_time(fixed: float, sample: float, start: float, in_place: bool, current: int):
    script = SimulatedScript(
        current_size=current,
        in_place=in_place,
        start_seconds=start,
        busy_seconds=start,
        fixed_seconds=fixed,
        sample_seconds=sample,
    )
    sweep(script)
    own = 20 * (fixed + sample * current) + (0 if in_place else start)
    # The own size is measured in any case, and a doubling may take up to twice as long as was thought.
    assert script.busy_seconds <= start + own + max(60.0, 4.0) + 20 * (fixed + sample * 2 * current)

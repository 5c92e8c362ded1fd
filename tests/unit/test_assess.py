"""What the check asks for in the rest of the budget, and what it makes of the reply."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from autobatch.check.assess import NOISE_ONLY, assess
from autobatch.errors import TargetError
from autobatch.probe import wire
from autobatch.records import Ceiling, Check, Curve, Device, LimitedBy, Limits, Outcome, Trial, Workload
from tests.simulated import Machine, SimulatedEngine, noise_chunks

LIMITS = Limits(budget_seconds=100.0)


def passed(size: int, rate: float = 10_000.0) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OK, samples_per_second=rate)


def failed(size: int) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY)


def curve(
    trials: Sequence[Trial] = tuple(passed(1 << k) for k in range(9)),
    present: int | None = None,
    synthetic: bool = False,
) -> Curve:
    largest = max(trial.batch_size for trial in trials if trial.ok)
    return Curve(
        trials=tuple(trials),
        ceiling=Ceiling(batch_size=largest, limited_by=LimitedBy.MEMORY, verified=True),
        workload=Workload(
            target="simulated",
            model="Simulated",
            parameters=0,
            loss="none",
            optimizer="none",
            batch_size=present,
            synthetic=synthetic,
        ),
        device=Device(kind="simulated", index=0, name="simulated device"),
    )


def asked(found: Curve, limits: Limits = LIMITS) -> wire.MeasureNoise:
    engine = SimulatedEngine(Machine())
    assess(engine, found, limits)
    (command,) = engine.noise_commands
    return command


@pytest.mark.parametrize("scale", [3.0, 100.0, 5000.0])
def test_the_critical_batch_size_is_twice_the_noise_scale(scale: float) -> None:
    engine = SimulatedEngine(Machine(noise_scale=scale))
    found = assess(engine, curve(), LIMITS)
    assert found.status == NOISE_ONLY
    assert found.noise_scale == pytest.approx(scale)
    assert found.critical_batch_size == pytest.approx(2 * scale)
    assert found.interval is not None
    low, high = found.interval
    assert high is not None
    assert low < 2 * scale < high
    assert found.log_sd is not None
    assert math.log(2.3) <= found.log_sd < 1.0


def test_the_time_is_the_engines() -> None:
    engine = SimulatedEngine(Machine())
    engine.busy_seconds = 90.0
    assess(engine, curve(), LIMITS)
    (command,) = engine.noise_commands
    assert command.burn_in_seconds == pytest.approx(4.0)
    assert command.most_samples == 10_000
    assert engine.busy_seconds == pytest.approx(94.0)
    assert asked(curve()).burn_in_seconds == 10.0


def test_random_inputs_are_not_checked() -> None:
    engine = SimulatedEngine(Machine())
    assert assess(engine, curve(synthetic=True), LIMITS) == Check(status="not run: the inputs are random")
    assert engine.noise_commands == []


@pytest.mark.parametrize("busy", [99.95, 100.0, 130.0])
def test_too_little_of_the_budget(busy: float) -> None:
    engine = SimulatedEngine(Machine())
    engine.busy_seconds = busy
    found = assess(engine, curve(), LIMITS)
    assert found == Check(status="not run: too little of the budget was left")
    assert engine.noise_commands == []


def test_a_curve_without_any_throughput() -> None:
    untimed = [Trial(batch_size=8, outcome=Outcome.OK)]
    found = assess(SimulatedEngine(Machine()), curve(untimed), LIMITS)
    assert found == Check(status="not run: too little of the budget was left")


def test_a_failure_is_told() -> None:
    found = assess(SimulatedEngine(Machine(noise_error="RuntimeError: boom")), curve(), LIMITS)
    assert found == Check(status="not run: RuntimeError: boom")


class Replying(SimulatedEngine):
    """Replies what it is given, or raises it."""

    def __init__(self, reply: wire.Noise | Exception) -> None:
        super().__init__(Machine())
        self.reply = reply

    def measure_noise(self, command: wire.MeasureNoise) -> wire.Noise:
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def test_a_session_that_does_not_open_is_told() -> None:
    found = assess(Replying(TargetError("it is gone", code="gone")), curve(), LIMITS)
    assert found == Check(status="not run: it is gone")


def test_too_few_samples_are_told() -> None:
    found = assess(Replying(wire.Noise(measured=(), burn_in_steps=3)), curve(), LIMITS)
    assert found == Check(status="not run: the data set is too small")


def test_what_was_measured_before_a_failure_counts() -> None:
    reply = wire.Noise(measured=(noise_chunks(50, 8),), burn_in_steps=3, error="RuntimeError: boom")
    found = assess(Replying(reply), curve(), LIMITS)
    assert found.critical_batch_size == pytest.approx(100)


def test_the_interval_is_open_where_a_measurement_has_no_signal() -> None:
    reply = wire.Noise(measured=(noise_chunks(50, 8), noise_chunks(math.inf, 8)), burn_in_steps=3)
    found = assess(Replying(reply), curve(), LIMITS)
    assert found.status == NOISE_ONLY
    assert found.noise_scale == pytest.approx(50)
    assert found.critical_batch_size == pytest.approx(100)
    assert found.interval is not None
    assert found.interval[0] < 100
    assert found.interval[1] is None


def test_without_any_signal_there_is_no_answer() -> None:
    found = assess(SimulatedEngine(Machine(noise_scale=math.inf)), curve(), LIMITS)
    assert found == Check(status="no answer: the gradient's noise hides its mean")


@pytest.mark.parametrize(
    ("present", "trained"), [(None, 32), (64, 64), (100, 64), (4096, 256), (1, 1), (3, 2)]
)
def test_it_trains_at_the_own_size_clipped_to_what_passed(present: int | None, trained: int) -> None:
    assert asked(curve(present=present)).batch_size == trained


def test_smaller_sizes_than_all_that_passed() -> None:
    trials = [failed(1), failed(2), passed(48), passed(96)]
    command = asked(curve(trials, present=4))
    assert command.batch_size == command.largest_chunk == 48


def test_a_size_that_failed_at_its_last_trial_did_not_pass() -> None:
    trials = [passed(8), passed(16), passed(32), failed(32)]
    command = asked(curve(trials, present=32))
    assert command.batch_size == command.largest_chunk == 16


@pytest.mark.parametrize("largest", [1, 2, 4, 8, 64, 256])
@pytest.mark.parametrize("present", [None, 1, 4, 64, 1000])
def test_no_chunk_is_larger_than_what_passed(largest: int, present: int | None) -> None:
    trials = [passed(size) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= largest]
    command = asked(curve(trials, present=present))
    assert command.batch_size <= command.largest_chunk <= largest
    assert command.largest_chunk >= min(8, largest)

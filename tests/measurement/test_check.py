"""What the check asks for in the rest of the budget, and what it makes of the reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from autobatch.decision.recommender import recommend
from autobatch.engines import messages
from autobatch.measurement.check import GeneralizationCheck
from autobatch.records.check import Check, CheckStatus, LossKind
from autobatch.records.device import Device
from autobatch.records.errors import TargetError
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import AnswerLimit
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload
from tests.simulated import Machine, SimulatedEngine, noise_chunks

LIMITS = Limits(budget_seconds=100.0, objective=Objective.TIME_TO_LOSS)


def assess(engine: SimulatedEngine, found: Curve, limits: Limits) -> Check:
    return GeneralizationCheck(engine, found, limits).run()


def not_run(why: str) -> Check:
    return Check(status=CheckStatus.NOT_RUN, detail=why)


def passed(size: int, rate: float = 10_000.0) -> Trial:
    seconds = (size / rate,) * 3
    return Trial(batch_size=size, outcome=Outcome.OK, step_seconds=seconds, samples_per_second=rate)


def failed(size: int) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OUT_OF_MEMORY)


def curve(
    trials: Sequence[Trial] = tuple(passed(1 << k) for k in range(9)),
    current: int | None = None,
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
            batch_size=current,
            synthetic=synthetic,
        ),
        device=Device(kind="simulated", index=0, name="simulated device"),
    )


def asked(found: Curve, limits: Limits = LIMITS) -> messages.MeasureNoise:
    engine = SimulatedEngine(Machine())
    assess(engine, found, limits)
    (command,) = engine.noise_commands
    return command


def alone() -> Curve:
    """A curve of one size: there is nothing to train against."""
    return curve([passed(32)])


def test_no_chunk_is_below_the_floor() -> None:
    """pytorch 57429, 116349: a sample alone may have no label, or be dropped when it is collated."""
    floor = Trial(batch_size=4, outcome=Outcome.FAILED)
    assert asked(curve([floor, *(passed(1 << k) for k in range(3, 9))])).smallest_chunk == 8
    assert asked(curve()).smallest_chunk == 1


@pytest.mark.parametrize("scale", [3.0, 100.0, 5000.0])
def test_the_critical_batch_size_is_twice_the_noise_scale(scale: float) -> None:
    engine = SimulatedEngine(Machine(noise_scale=scale))
    found = assess(engine, alone(), LIMITS)
    assert found.status is CheckStatus.NOISE_ONLY
    assert found.detail == "no other size can be expected to be faster"
    assert engine.train_commands == []
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
    assess(engine, alone(), LIMITS)
    (command,) = engine.noise_commands
    assert command.burn_in_seconds == pytest.approx(2.5)
    assert command.most_samples == 7_000
    assert engine.busy_seconds == pytest.approx(92.5)
    assert asked(curve()).burn_in_seconds == 25.0


def test_random_inputs_are_not_checked() -> None:
    engine = SimulatedEngine(Machine())
    assert assess(engine, curve(synthetic=True), LIMITS) == not_run("the inputs are random")
    assert engine.noise_commands == []


@pytest.mark.parametrize("busy", [99.95, 100.0, 130.0])
def test_too_little_of_the_budget(busy: float) -> None:
    engine = SimulatedEngine(Machine())
    engine.busy_seconds = busy
    found = assess(engine, curve(), LIMITS)
    assert found == not_run("too little of the budget was left")
    assert engine.noise_commands == []


def test_the_kind_of_loss_is_measured_where_the_noise_takes_too_long() -> None:
    """UKPLab/sentence-transformers 2916: accumulation adds no negatives, in a short search either."""
    engine = SimulatedEngine(Machine(loss_kind=LossKind.BATCH_DEPENDENT))
    engine.busy_seconds = 99.95
    limits = replace(LIMITS, global_batch=1024)
    found = assess(engine, curve(current=32), limits)
    assert found == replace(not_run("too little of the budget was left"), loss_kind=LossKind.BATCH_DEPENDENT)
    answer = recommend(curve(current=32), found, limits)
    assert (answer.batch_size, answer.accumulation_steps) == (32, 1)
    engine.busy_seconds = 100.0
    assert assess(engine, curve(current=32), limits).loss_kind is LossKind.UNKNOWN


def test_a_curve_without_any_throughput() -> None:
    untimed = [Trial(batch_size=8, outcome=Outcome.OK)]
    found = assess(SimulatedEngine(Machine()), curve(untimed), LIMITS)
    assert found == not_run("too little of the budget was left")


def test_a_failure_is_told() -> None:
    found = assess(SimulatedEngine(Machine(noise_error="RuntimeError: boom")), curve(), LIMITS)
    assert found == not_run("RuntimeError: boom")


class Replying(SimulatedEngine):
    """Replies what it is given, or raises it."""

    def __init__(self, reply: messages.Noise | Exception) -> None:
        super().__init__(Machine())
        self.reply = reply

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def test_a_session_that_does_not_open_is_told() -> None:
    found = assess(Replying(TargetError("it is gone", code="gone")), curve(), LIMITS)
    assert found == not_run("it is gone")


def test_too_few_samples_are_told() -> None:
    found = assess(Replying(messages.Noise(measured=(), burn_in_steps=3)), curve(), LIMITS)
    assert found == not_run("the data set is too small")


def test_what_was_measured_before_a_failure_counts() -> None:
    reply = messages.Noise(measured=(noise_chunks(50, 8),), burn_in_steps=3, error="RuntimeError: boom")
    found = assess(Replying(reply), alone(), LIMITS)
    assert found.critical_batch_size == pytest.approx(100)


def test_the_interval_is_open_where_a_measurement_has_no_signal() -> None:
    reply = messages.Noise(measured=(noise_chunks(50, 8), noise_chunks(math.inf, 8)), burn_in_steps=3)
    found = assess(Replying(reply), alone(), LIMITS)
    assert found.status is CheckStatus.NOISE_ONLY
    assert found.noise_scale == pytest.approx(50)
    assert found.critical_batch_size == pytest.approx(100)
    assert found.interval is not None
    assert found.interval[0] < 100
    assert found.interval[1] is None


def test_without_any_signal_there_is_no_answer() -> None:
    found = assess(SimulatedEngine(Machine(noise_scale=math.inf)), alone(), LIMITS)
    assert found.critical_batch_size is None
    assert found.status is CheckStatus.NOT_RUN
    assert found.detail == "the gradient's noise hides its mean"


@pytest.mark.parametrize(
    ("current", "trained"), [(None, 32), (64, 64), (100, 64), (4096, 256), (1, 1), (3, 2)]
)
def test_it_trains_at_the_own_size_clipped_to_what_passed(current: int | None, trained: int) -> None:
    assert asked(curve(current=current)).batch_size == trained


def test_smaller_sizes_than_all_that_passed() -> None:
    trials = [failed(1), failed(2), passed(48), passed(96)]
    command = asked(curve(trials, current=4))
    assert command.batch_size == command.largest_chunk == 48


def test_a_size_that_failed_at_its_last_trial_did_not_pass() -> None:
    trials = [passed(8), passed(16), passed(32), failed(32)]
    command = asked(curve(trials, current=32))
    assert command.batch_size == command.largest_chunk == 16


@pytest.mark.parametrize("largest", [1, 2, 4, 8, 64, 256])
@pytest.mark.parametrize("current", [None, 1, 4, 64, 1000])
def test_no_chunk_is_larger_than_what_passed(largest: int, current: int | None) -> None:
    trials = [passed(size) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= largest]
    command = asked(curve(trials, current=current))
    assert command.batch_size <= command.largest_chunk <= largest
    assert command.largest_chunk >= min(8, largest)


def test_no_size_above_the_ceiling_is_trained() -> None:
    """The verification rejected 64 and larger ones, though they passed in the climb."""
    found = curve([passed(1 << k) for k in range(9)], current=64)
    rejected = replace(found, ceiling=replace(found.ceiling, batch_size=48))
    command = asked(rejected)
    assert command.batch_size == command.largest_chunk == 32
    engine = SimulatedEngine(machine())
    limited = timed_curve(current=8)
    limited = replace(limited, ceiling=replace(limited.ceiling, batch_size=100))
    assess(engine, limited, BUDGET)
    trained = [command.batch_size for command in engine.train_commands]
    assert trained
    assert max(trained) <= 64


def timed_curve(current: int | None = 32, samples: int = 20_000, **workload: Any) -> Curve:
    """t(B) = 2 ms + 20 us B: the best size is 10 times the root of the critical batch size."""
    trials = []
    for size in (1 << k for k in range(12)):
        seconds = MACHINE.step_seconds(size)
        trials.append(replace(passed(size, size / seconds), step_seconds=(seconds,) * 5))
    found = curve(trials, current=current)
    return replace(
        found,
        workload=replace(
            found.workload, optimizer="SGD", learning_rate=0.1, dataset_size=samples, **workload
        ),
    )


MACHINE = Machine(step_seconds=lambda size: 2e-3 + 2e-5 * size)
BUDGET = replace(LIMITS, budget_seconds=20.0)


def machine(**given: Any) -> Machine:
    return replace(MACHINE, crashes={}, noise_scale=200.0, critical_batch_size=400.0, **given)


def test_the_present_size_trains_first_and_the_choice_second() -> None:
    engine = SimulatedEngine(machine())
    found = assess(engine, timed_curve(), BUDGET)
    assert found.status is CheckStatus.PASSED
    first, second, *_ = engine.train_commands
    assert (first.batch_size, first.learning_rate_factor) == (32, 1.0)
    assert second.batch_size == 256
    assert second.learning_rate_factor > 2.0
    assert {one.seconds for one in engine.train_commands} == {first.seconds}
    assert [one.batch_size for one in found.trainings] == [one.batch_size for one in engine.train_commands]
    assert found.held_out.endswith("validation samples")
    assert found.matched_loss is not None


def test_trainings_move_the_belief_towards_what_they_show() -> None:
    engine = SimulatedEngine(replace(machine(), critical_batch_size=1600.0))
    before = assess(SimulatedEngine(machine()), timed_curve(), BUDGET)
    after = assess(engine, timed_curve(), BUDGET)
    assert before.critical_batch_size is not None
    assert after.critical_batch_size is not None
    assert before.critical_batch_size < 500 < after.critical_batch_size
    assert after.log_sd is not None
    assert after.log_sd < math.log(2.3)


@pytest.mark.parametrize("budget", [0.5, 1.0, 3.0, 10.0, 60.0])
@pytest.mark.parametrize("critical", [2.0, 400.0, 20_000.0])
def test_the_budget_is_kept(budget: float, critical: float) -> None:
    engine = SimulatedEngine(replace(machine(), noise_scale=critical / 2, critical_batch_size=critical))
    assess(engine, timed_curve(), replace(BUDGET, budget_seconds=budget))
    longest_step = MACHINE.step_seconds(2048)
    assert engine.busy_seconds <= 1.1 * budget + longest_step


def test_a_size_that_diverges_is_tried_once_more_at_half_its_learning_rate() -> None:
    engine = SimulatedEngine(replace(machine(), highest_learning_rate_factor=3.0))
    found = assess(engine, timed_curve(), BUDGET)
    assert found.status is CheckStatus.PASSED
    _, first, second, *_ = engine.train_commands
    assert first.batch_size == second.batch_size == 256
    assert second.learning_rate_factor == pytest.approx(first.learning_rate_factor / 2)
    answer = recommend(timed_curve(), found, BUDGET)
    assert answer.batch_size == 256
    assert answer.learning_rate_factor == second.learning_rate_factor


def test_a_size_that_trains_worse_is_vetoed_and_so_is_everything_larger() -> None:
    engine = SimulatedEngine(replace(machine(), handicaps=dict.fromkeys((256, 512, 1024), 5.0)))
    found = assess(engine, timed_curve(), BUDGET)
    assert found.status is CheckStatus.VETOED
    assert found.vetoed[0].batch_size == 256
    assert found.vetoed[0].reason.startswith("loss ")
    answer = recommend(timed_curve(), found, BUDGET)
    assert answer.batch_size < 256
    assert answer.limited_by is AnswerLimit.VETO


def test_a_training_that_kills_its_process_is_a_veto_and_no_crash() -> None:
    engine = SimulatedEngine(replace(machine(), training_deaths={256}))
    found = assess(engine, timed_curve(), BUDGET)
    assert found.vetoed[0].batch_size == 256
    assert "the worker ended" in found.vetoed[0].reason


def test_a_present_size_that_can_not_train_ends_the_trainings() -> None:
    engine = SimulatedEngine(replace(machine(), training_deaths={32}))
    found = assess(engine, timed_curve(), BUDGET)
    assert found.status is CheckStatus.NOISE_ONLY
    assert found.detail.startswith("at batch size 32: ")
    assert len(engine.train_commands) == 1


def test_no_signal_in_the_noise_leaves_it_to_the_trainings() -> None:
    engine = SimulatedEngine(replace(machine(), noise_scale=math.inf))
    found = assess(engine, timed_curve(), replace(BUDGET, budget_seconds=60.0))
    assert found.status in (CheckStatus.PASSED, CheckStatus.NOT_RUN)
    assert (found.critical_batch_size is None) == (found.status is CheckStatus.NOT_RUN)


def test_a_tiny_budget_leaves_the_noise_alone() -> None:
    found = assess(SimulatedEngine(machine()), timed_curve(), replace(BUDGET, budget_seconds=0.2))
    assert found.status is CheckStatus.NOISE_ONLY
    assert found.detail == "too little of the budget was left for trainings"
    assert found.critical_batch_size == pytest.approx(400.0)


def test_what_the_trainings_had_come_to_survives_an_interrupt() -> None:
    class Interrupting(SimulatedEngine):
        def train(self, command: messages.Train) -> messages.Trained:
            if self.train_commands:
                raise KeyboardInterrupt
            return super().train(command)

    interrupted = GeneralizationCheck(Interrupting(machine()), timed_curve(), BUDGET)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    assert len(interrupted.check.trainings) == 1
    assert interrupted.check.status is CheckStatus.NOISE_ONLY
    assert interrupted.check.detail == "only the reference size was trained"


def test_a_rate_meant_for_a_size_that_does_not_fit_is_scaled_down_to_one_that_does() -> None:
    engine = SimulatedEngine(machine())
    about = timed_curve(current=4 * 2048)
    found = assess(engine, about, BUDGET)
    (noise,) = engine.noise_commands
    assert (noise.batch_size, noise.learning_rate_factor) == (2048, pytest.approx(1 / 4))
    base = engine.train_commands[0]
    assert base.batch_size == 2048
    assert 1 / 4 < base.learning_rate_factor < 1.0
    answer = recommend(about, found, BUDGET)
    assert answer.learning_rate_factor is not None
    assert answer.learning_rate_factor < base.learning_rate_factor


def test_a_raised_learning_rate_is_compared_with_half_of_it_and_the_better_one_recommended() -> None:
    engine = SimulatedEngine(machine(best_learning_rate_factor=2.0))
    found = assess(engine, timed_curve(), replace(BUDGET, budget_seconds=60.0))
    at_choice = [one for one in found.trainings if one.batch_size == 256]
    raised, halved = (one.learning_rate_factor for one in at_choice)
    assert halved == raised / 2
    answer = recommend(timed_curve(), found, replace(BUDGET, budget_seconds=60.0))
    assert answer.batch_size == 256
    assert answer.learning_rate_factor == halved
    assert answer.learning_rate == pytest.approx(0.1 * halved)


def test_trainings_at_the_same_time_take_the_time_of_one() -> None:
    alone, together = (SimulatedEngine(replace(machine(), trainings_at_once=count)) for count in (1, 4))
    limits = BUDGET
    found = [assess(engine, timed_curve(), limits) for engine in (alone, together)]
    assert [one.status for one in found] == [CheckStatus.PASSED] * 2
    longer, shorter = (engine.train_commands[0].seconds for engine in (together, alone))
    assert longer > 1.5 * shorter
    assert together.busy_seconds <= 1.1 * limits.budget_seconds
    assert len(together.train_commands) >= len(alone.train_commands)


def test_a_training_that_can_not_be_held_leaves_those_beside_it() -> None:
    class Short(SimulatedEngine):
        def train(self, command: messages.Train) -> messages.Trained:
            if command.batch_size >= 256:
                return messages.Trained(training=None, held_out="the data set is too small")
            return super().train(command)

    found = assess(
        Short(replace(machine(), trainings_at_once=4)), timed_curve(), replace(BUDGET, budget_seconds=60.0)
    )
    assert 32 in [one.batch_size for one in found.trainings]
    assert all(one.batch_size < 256 for one in found.trainings)
    assert found.critical_batch_size is not None
    alone = assess(Short(machine()), timed_curve(), replace(BUDGET, budget_seconds=60.0))
    assert [one.batch_size for one in alone.trainings] == [32]


@pytest.mark.parametrize(("epochs", "walks"), [(1.0, True), (10_000.0, False), (None, False)])
def test_a_rate_that_is_too_low_is_raised_at_the_choice_where_the_trainings_are_long_enough(
    epochs: float | None, walks: bool
) -> None:
    engine = SimulatedEngine(machine(fastest_learning_rate_factor=30.0))
    about, limits = timed_curve(epochs=epochs), replace(BUDGET, budget_seconds=300.0)
    found = assess(engine, about, limits)
    answer = recommend(about, found, limits)
    rates = [one.learning_rate_factor for one in found.trainings if one.batch_size == answer.batch_size]
    assert (max(rates) > rates[0]) == walks
    assert (answer.learning_rate_factor in (2 * rates[0], 4 * rates[0])) == walks

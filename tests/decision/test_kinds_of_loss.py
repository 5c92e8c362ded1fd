"""What the kind of loss changes in an answer: its size, its learning rate, accumulation, its warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autobatch.decision.critical_batch import scaled_learning_rate, sum_correction
from autobatch.decision.recommender import decide_again, recommend
from autobatch.measurement.check import GeneralizationCheck
from autobatch.records.check import Check, CheckStatus, LossKind
from autobatch.records.device import Device
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Action, Recommendation
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload
from tests.simulated import Machine, SimulatedEngine

STEP = Machine(step_seconds=lambda size: 2e-3 + 2e-5 * size)
LIMITS = Limits(budget_seconds=20.0)
SIZES = tuple(1 << k for k in range(12))


def curve(largest: int = 2048, current: int | None = 32, **workload: Any) -> Curve:
    usual: dict[str, Any] = {"optimizer": "SGD", "learning_rate": 0.1, "dataset_size": 20_000, "epochs": 2.0}
    trials = tuple(
        Trial(
            batch_size=size,
            outcome=Outcome.OK,
            step_seconds=(STEP.step_seconds(size),) * 5,
            samples_per_second=size / STEP.step_seconds(size),
        )
        for size in SIZES
        if size <= largest
    )
    return Curve(
        trials=trials,
        ceiling=Ceiling(batch_size=largest, limited_by=LimitedBy.MEMORY, verified=True),
        workload=Workload(
            target="simulated",
            model="Simulated",
            parameters=0,
            loss="none",
            batch_size=current,
            **(usual | workload),
        ),
        device=Device(kind="simulated", index=0, name="simulated device"),
    )


def answered(
    kind: LossKind, about: Curve | None = None, limits: Limits = LIMITS, **machine: Any
) -> tuple[Recommendation, SimulatedEngine]:
    about = about or curve()
    made = replace(STEP, current_batch_size=about.workload.batch_size, loss_kind=kind, **machine)
    engine = SimulatedEngine(made)
    check = GeneralizationCheck(engine, about, limits).run()
    assert check.loss_kind is kind
    return recommend(about, check, limits), engine


def warnings_on(answer: Recommendation, words: str) -> list[str]:
    return [warning for warning in answer.warnings if words in warning]


# A sum

HARMLESS = {"noise_scale": 1e6, "critical_batch_size": 2e6}


@pytest.mark.parametrize("objective", [Objective.TIME, Objective.TIME_TO_LOSS])
@pytest.mark.parametrize("machine", [HARMLESS, {"noise_scale": 100.0, "highest_learning_rate_factor": 3.0}])
def test_a_sum_gets_the_decision_of_its_mean(objective: Objective, machine: dict[str, float]) -> None:
    """The mean's rate at 32 is 32 times the sum's: the same steps, so the same losses.

    yolov7 1713; jax 3113; cornac 537: a loss that is summed over the batch.
    """
    limits = replace(LIMITS, objective=objective)
    of_sum, sums = answered(LossKind.SUM, curve(learning_rate=0.1 / 32), limits, **machine)
    of_mean, means = answered(LossKind.MEAN, curve(), limits, **machine)
    assert of_sum.batch_size == of_mean.batch_size
    assert of_sum.decision == of_mean.decision
    assert [veto.batch_size for veto in of_sum.check.vetoed] == [
        veto.batch_size for veto in of_mean.check.vetoed
    ]
    assert of_sum.learning_rate * of_sum.batch_size == pytest.approx(of_mean.learning_rate)
    pairs = zip(sums.train_commands, means.train_commands, strict=True)
    for command, other in pairs:
        assert command.batch_size == other.batch_size
        same = command.learning_rate_factor * command.batch_size / 32
        assert same == pytest.approx(other.learning_rate_factor)


def test_the_rate_of_a_sum_is_told_where_the_size_changes() -> None:
    answer, _ = answered(LossKind.SUM, **HARMLESS)
    ratio = answer.batch_size / 32
    assert ratio > 1
    (warning,) = warnings_on(answer, "the loss is a sum over the batch")
    assert f"{ratio:.3g}x as large" in warning
    assert f"learning rate by {answer.learning_rate_factor:.3g}" in warning
    assert f"weight decay by {ratio:.3g}" in warning
    assert not warnings_on(answered(LossKind.MEAN, **HARMLESS)[0], "a sum")


def test_adam_does_not_see_the_scale_of_a_sum() -> None:
    answers = [
        answered(kind, curve(optimizer="AdamW"), **HARMLESS)[0] for kind in (LossKind.SUM, LossKind.MEAN)
    ]
    assert answers[0].batch_size == answers[1].batch_size > 32
    assert answers[0].learning_rate == answers[1].learning_rate
    assert not warnings_on(answers[0], "a sum")


def test_a_first_training_of_a_smaller_size_has_the_steps_of_the_mean() -> None:
    """The current size does not fit: a mean's rate falls by the linear rule, that of a sum stays."""
    about = curve(largest=512, current=2048)
    assert answered(LossKind.MEAN, about)[1].noise_commands[0].learning_rate_factor == pytest.approx(1 / 4)
    assert answered(LossKind.SUM, about)[1].noise_commands[0].learning_rate_factor == pytest.approx(1.0)


def test_accumulated_sums_are_averaged() -> None:
    limits = replace(LIMITS, global_batch=4096)
    about = curve(largest=512)
    of_sum, of_mean = (answered(kind, about, limits)[0] for kind in (LossKind.SUM, LossKind.MEAN))
    size = of_sum.batch_size
    assert (size, of_sum.accumulation_steps) == (of_mean.batch_size, of_mean.accumulation_steps)
    assert of_sum.accumulation_steps > 1
    assert of_sum.learning_rate_factor == pytest.approx(of_mean.learning_rate_factor * 32 / size)


@pytest.mark.parametrize("size", [1, 64, 4096])
def test_a_sum_at_the_corrected_rate_makes_the_steps_of_the_mean(size: int) -> None:
    assert sum_correction(LossKind.SUM, 1.0, 64, size) * size == pytest.approx(64)
    for kind, power in ((LossKind.MEAN, 1.0), (LossKind.SUM, 0.5), (LossKind.SUM, None)):
        assert sum_correction(kind, power, 64, size) == 1.0


# A loss that depends on the rest of the batch


def test_nothing_is_measured_by_the_law_of_noise() -> None:
    answer, engine = answered(LossKind.BATCH_DEPENDENT, **HARMLESS)
    assert engine.noise_commands == []
    check = answer.check
    assert check is not None
    assert (check.noise_scale, check.critical_batch_size, check.interval) == (None, None, None)
    assert check.noise_points == ()
    assert engine.train_commands[0].learning_rate_factor == 1.0


def test_whole_trainings_that_end_as_low_may_change_the_size() -> None:
    answer, engine = answered(LossKind.BATCH_DEPENDENT, **HARMLESS)
    trained = [command.batch_size for command in engine.train_commands]
    assert trained[:2] == [32, 64]
    assert answer.decision is not None
    assert answer.decision.action is Action.CHANGE
    assert answer.batch_size in trained
    assert answer.check is not None
    assert answer.check.status is CheckStatus.PASSED


@pytest.mark.parametrize(
    ("workload", "machine"),
    [({}, {"critical_batch_size": 20.0}), ({"epochs": 500.0}, HARMLESS), ({"dataset_size": None}, HARMLESS)],
)
def test_the_batch_of_the_loss_stays_where_no_training_speaks_against_it(
    workload: dict[str, Any], machine: dict[str, float]
) -> None:
    answer, _ = answered(LossKind.BATCH_DEPENDENT, curve(**workload), **machine)
    assert answer.batch_size == 32
    assert answer.learning_rate in (None, 0.1)


@pytest.mark.parametrize("objective", [Objective.TIME, Objective.TIME_TO_LOSS])
def test_no_expected_time_to_a_loss_chooses_its_size(objective: Objective) -> None:
    about = curve(dataset_size=None)
    answer, _ = answered(LossKind.BATCH_DEPENDENT, about, replace(LIMITS, objective=objective))
    assert answer.batch_size == 32


def test_both_sizes_are_named() -> None:
    answer, _ = answered(LossKind.BATCH_DEPENDENT, curve(dataset_size=None))
    (warning,) = warnings_on(answer, "depends on the rest of the batch")
    assert "keep 32 for the loss" in warning
    assert "2,048" in warning


@pytest.mark.parametrize(("current", "kept"), [(32, 32), (48, 32), (None, 32)])
def test_accumulation_is_never_advised(current: int | None, kept: int) -> None:
    """luyug/GradCache 7, 13; lightonai/pylate 70; kamalkraj/e5-mistral-7b-instruct 15."""
    limits = replace(LIMITS, global_batch=512, max_batch=64)
    answer, _ = answered(LossKind.BATCH_DEPENDENT, curve(largest=64, current=current), limits)
    assert (answer.batch_size, answer.accumulation_steps) == (kept, 1)
    assert "is above the largest size allowed, 64" in answer.why
    (warning,) = warnings_on(answer, "depends on the rest of the batch")
    assert "a loss over 512 samples" in warning
    assert "micro batches of 64" in warning
    again = decide_again(answer, replace(limits, global_batch=256))
    assert again.accumulation_steps == 1


def test_a_global_batch_that_fits_at_once_is_met() -> None:
    limits = replace(LIMITS, global_batch=512)
    answer, _ = answered(LossKind.BATCH_DEPENDENT, curve(), limits)
    assert (answer.batch_size, answer.accumulation_steps) == (512, 1)
    assert answer.why == "the global batch size 512 fits at once"


# The words of other answers


def test_a_size_above_the_largest_allowed_is_not_said_not_to_fit() -> None:
    limits = replace(LIMITS, global_batch=512, max_batch=64)
    answer, _ = answered(LossKind.MEAN, curve(largest=64, current=48), limits)
    assert answer.accumulation_steps > 1
    assert "is above the largest size allowed, 64" in answer.why
    free, _ = answered(LossKind.MEAN, curve(largest=64, current=48), replace(limits, max_batch=None))
    assert "did not fit at once" in free.why


def test_optimizers_with_different_rules_have_each_its_factor() -> None:
    check = Check(
        status=CheckStatus.NOISE_ONLY,
        batch_size=32,
        critical_batch_size=400.0,
        interval=(100.0, 1600.0),
        log_sd=0.8,
    )
    limits = replace(LIMITS, objective=Objective.MEMORY)
    answer = recommend(curve(optimizer="SGD and Adam"), check, limits)
    factors = [scaled_learning_rate(1.0, 32, 2048, 400.0, power) for power in (1.0, 0.5)]
    (warning,) = warnings_on(answer, "follow different rules")
    assert f"SGD's by {factors[0]:.3g} and Adam's by {factors[1]:.3g}" in warning
    assert warnings_on(recommend(curve(optimizer="SGD and Lion"), check, limits), "follows no known rule")
    same = recommend(curve(optimizer="SparseAdam and Adam"), check, limits)
    assert same.learning_rate_factor == pytest.approx(factors[1])
    assert not warnings_on(same, "rule")

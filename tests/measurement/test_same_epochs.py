"""The trainings for the user's epochs: sizes upwards, then learning rates, within the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autobatch.decision.constants import MOST_EPOCHS
from autobatch.decision.recommender import recommend
from autobatch.measurement.check import GeneralizationCheck
from autobatch.records.check import Check, CheckStatus
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Action, AnswerLimit, Recommendation
from autobatch.records.trial import Curve, Outcome
from tests import builders
from tests.simulated import Machine, SimulatedEngine

EPOCHS = Limits(budget_seconds=20.0)
MACHINE = Machine(step_seconds=lambda size: 2e-3 + 2e-5 * size)


def assess(engine: SimulatedEngine, measured: Curve, limits: Limits) -> Check:
    return GeneralizationCheck(engine, measured, limits).run()


def timed_curve(current: int | None = 32, samples: int = 20_000, **workload: Any) -> Curve:
    """t(B) = 2 ms + 20 us B."""
    sizes = [1 << k for k in range(12)]
    return builders.curve(
        builders.affine_trials(100.0, sizes, 2e-3),
        workload=builders.workload(batch_size=current, learning_rate=0.1, dataset_size=samples, **workload),
    )


def harmless(**given: Any) -> Machine:
    """So much gradient noise that larger sizes lose little at the same epochs."""
    return replace(MACHINE, noise_scale=1e6, critical_batch_size=2e6, crashes={}, **given)


def harmful(**given: Any) -> Machine:
    return replace(MACHINE, noise_scale=10.0, critical_batch_size=20.0, crashes={}, **given)


def trained(engine: SimulatedEngine) -> list[int]:
    return [command.batch_size for command in engine.train_commands]


@pytest.mark.parametrize("epochs", [2.0, 100.0, None])
@pytest.mark.parametrize("made", [harmless, harmful])
def test_the_current_size_trains_first_for_half_of_the_time_at_most(
    made: Callable[[], Machine], epochs: float | None
) -> None:
    engine = SimulatedEngine(made())
    check = assess(engine, timed_curve(epochs=epochs), EPOCHS)
    first = engine.train_commands[0]
    assert (first.batch_size, first.learning_rate_factor) == (32, 1.0)
    assert first.most_samples == math.ceil((epochs or MOST_EPOCHS) * 20_000)
    assert first.seconds == pytest.approx((20.0 - 5.0) / 2)
    assert check.trainings[0].batch_size == 32
    assert len(check.noise_points) == 3


def test_whole_trainings_go_upwards_where_they_fit() -> None:
    engine = SimulatedEngine(harmless())
    about = timed_curve(epochs=2.0)
    check = assess(engine, about, EPOCHS)
    assert check.status is CheckStatus.PASSED
    assert list(dict.fromkeys(trained(engine))) == [32, 64, 128, 256]
    for training in check.trainings:
        assert training.steps * training.batch_size == pytest.approx(2 * 20_000, abs=training.batch_size)
    answer = recommend(about, check, EPOCHS)
    assert answer.decision is not None
    assert answer.decision.action is Action.CHANGE
    assert answer.batch_size > 32


def test_whole_trainings_end_with_the_first_that_ends_at_a_higher_loss() -> None:
    engine = SimulatedEngine(harmful())
    about = timed_curve(epochs=2.0)
    check = assess(engine, about, EPOCHS)
    assert list(dict.fromkeys(trained(engine))) == [32, 64]
    answer = recommend(about, check, EPOCHS)
    assert answer.batch_size == 32
    assert answer.why.startswith("faster sizes end at a higher loss at the same epochs")


def test_a_long_training_is_run_in_part_and_its_decision_confirmed() -> None:
    engine = SimulatedEngine(harmless())
    about = timed_curve(epochs=100.0)
    check = assess(engine, about, EPOCHS)
    first, *others = check.trainings
    assert first.seconds == pytest.approx(7.5, rel=0.01)
    assert len(others) == 1
    assert others[0].batch_size == recommend(about, check, EPOCHS).batch_size > 32
    assert others[0].steps * others[0].batch_size == pytest.approx(first.steps * 32, rel=0.05)


def test_a_long_training_that_larger_sizes_harm_needs_no_second() -> None:
    engine = SimulatedEngine(harmful())
    about = timed_curve(epochs=100.0)
    check = assess(engine, about, EPOCHS)
    assert trained(engine) == [32]
    assert check.status is CheckStatus.NOISE_ONLY
    assert check.detail == "only the reference size was trained"
    assert recommend(about, check, EPOCHS).batch_size == 32


@pytest.mark.parametrize("epochs", [0.1, 2.0, 100.0, None])
@pytest.mark.parametrize("budget", [0.2, 1.0, 5.0, 60.0])
@pytest.mark.parametrize("made", [harmless, harmful])
def test_the_same_epochs_keep_the_budget(
    made: Callable[[], Machine], budget: float, epochs: float | None
) -> None:
    engine = SimulatedEngine(made())
    assess(engine, timed_curve(epochs=epochs), Limits(budget_seconds=budget))
    assert engine.busy_seconds <= 1.1 * budget + MACHINE.step_seconds(2048)


def test_too_little_time_for_the_current_size() -> None:
    engine = SimulatedEngine(harmless())
    about = timed_curve(epochs=2.0)
    check = assess(engine, about, Limits(budget_seconds=0.08))
    assert engine.train_commands == []
    assert check.detail == "too little of the budget was left for trainings"
    assert recommend(about, check, EPOCHS).batch_size >= 32


def test_without_the_length_of_an_epoch_nothing_is_trained() -> None:
    engine = SimulatedEngine(harmless())
    about = timed_curve()
    about = replace(about, workload=replace(about.workload, dataset_size=None))
    check = assess(engine, about, EPOCHS)
    assert engine.train_commands == []
    assert check.detail == "the number of samples of an epoch is unknown"
    assert recommend(about, check, EPOCHS).batch_size == 32


def test_a_larger_size_that_kills_its_process_is_vetoed() -> None:
    engine = SimulatedEngine(harmless(training_deaths={128}))
    about = timed_curve(epochs=2.0)
    check = assess(engine, about, EPOCHS)
    assert list(dict.fromkeys(trained(engine))) == [32, 64, 128]
    assert check.status is CheckStatus.VETOED
    assert [veto.batch_size for veto in check.vetoed] == [128]
    answer = recommend(about, check, EPOCHS)
    assert answer.batch_size == 64
    assert answer.limited_by is AnswerLimit.VETO


def test_a_larger_size_that_diverges_is_tried_once_more_at_half_its_rate() -> None:
    engine = SimulatedEngine(harmless(highest_learning_rate_factor=3.0))
    about = timed_curve(epochs=2.0)
    check = assess(engine, about, EPOCHS)
    first, second, *_ = (t for t in check.trainings if t.batch_size == 128)
    assert first.outcome is Outcome.DIVERGED
    assert second.learning_rate_factor == first.learning_rate_factor / 2
    assert 128 not in [veto.batch_size for veto in check.vetoed]
    answer = recommend(about, check, EPOCHS)
    assert answer.batch_size >= 128
    assert answer.batch_size in trained(engine)
    assert answer.learning_rate_factor is not None
    assert answer.learning_rate_factor <= 3.0


def test_a_current_size_that_diverges_is_trained_at_half_its_rate_for_as_long() -> None:
    engine = SimulatedEngine(harmful(highest_learning_rate_factor=0.6))
    about = timed_curve(epochs=2.0)
    check = assess(engine, about, EPOCHS)
    first, second = engine.train_commands[:2]
    assert (second.batch_size, second.learning_rate_factor) == (32, 0.5)
    assert second.most_samples == first.most_samples
    answer = recommend(about, check, EPOCHS)
    assert (answer.batch_size, answer.learning_rate_factor) == (32, 0.5)
    assert "the loss does not fall at your learning rate: sizes are compared at 0.5 times that rate" in (
        answer.warnings
    )


def test_a_current_size_that_can_not_train_is_kept() -> None:
    engine = SimulatedEngine(harmless(training_deaths={32}))
    about = timed_curve(epochs=2.0)
    check = assess(engine, about, EPOCHS)
    assert trained(engine) == [32]
    assert check.detail.startswith("at batch size 32: ")
    answer = recommend(about, check, EPOCHS)
    assert answer.batch_size == 32
    assert answer.why.startswith("no training shows the final loss of faster sizes")


def test_a_size_asked_for_needs_no_training() -> None:
    engine = SimulatedEngine(harmless())
    check = assess(engine, timed_curve(epochs=2.0), replace(EPOCHS, global_batch=64))
    assert engine.train_commands == []
    assert check.detail == "the size was asked for"


@pytest.mark.parametrize("ranks", [1, 4])
def test_noise_points_count_the_samples_of_the_rank_that_trained_alone(ranks: int) -> None:
    engine = SimulatedEngine(harmless())
    check = assess(engine, replace(timed_curve(epochs=2.0), world_size=ranks), EPOCHS)
    (command,) = engine.noise_commands
    steps = int(command.burn_in_seconds / MACHINE.step_seconds(32))
    assert [point.samples_seen for point in check.noise_points] == pytest.approx(
        [32 * int(share * steps) for share in (0.25, 0.5, 1.0)]
    )
    assert [point.batch_size for point in check.noise_points] == pytest.approx([1e6] * 3)


def test_ranks_train_their_parts_of_an_epoch() -> None:
    engine = SimulatedEngine(harmless())
    check = assess(engine, replace(timed_curve(epochs=2.0), world_size=4), EPOCHS)
    assert engine.train_commands[0].most_samples == 2 * 20_000 / 4
    assert list(dict.fromkeys(trained(engine))) == [32, 64, 128, 256]
    assert check.status is CheckStatus.PASSED


def test_a_whole_training_that_does_not_fit_is_not_begun() -> None:
    engine = SimulatedEngine(harmless())
    check = assess(engine, timed_curve(epochs=2.0), Limits(budget_seconds=10.0))
    assert trained(engine) == [32, 64, 128]
    assert {round(training.steps * training.batch_size, -3) for training in check.trainings} == {40_000}


@pytest.mark.parametrize("epochs", [2.0, 100.0])
def test_trainings_that_are_slower_than_timed_keep_the_budget(epochs: float) -> None:
    engine = SimulatedEngine(harmless(step_seconds=lambda size: MACHINE.step_seconds(size) * size / 16))
    assess(engine, timed_curve(epochs=epochs), EPOCHS)
    assert len(engine.train_commands) > 1
    assert engine.busy_seconds <= 1.1 * EPOCHS.budget_seconds


# Learning rates


def row_of(answer: Recommendation, size: int) -> tuple[float | None, float]:
    """Learning rate and gain of the rate at a size."""
    (row,) = (row for row in answer.same_epochs if row.batch_size == size)
    return row.learning_rate_factor, row.rate_gain


def factors(check: Check, size: int) -> list[float]:
    return [t.learning_rate_factor for t in check.trainings if t.batch_size == size]


def test_a_rate_that_is_too_low_is_raised_and_larger_sizes_follow() -> None:
    """At the rate of the rule no larger size is safe; at twice that rate the next size is.

    aharley/simple_bev 8: which learning rate fits another accumulation?
    """
    machine = replace(harmful(fastest_learning_rate_factor=4.0), critical_batch_size=60.0, noise_scale=30.0)
    about, limits = timed_curve(epochs=2.0), Limits(budget_seconds=120.0)
    check = assess(SimulatedEngine(machine), about, limits)
    answer = recommend(about, check, limits)
    assert answer.batch_size == 64
    rule, *raised = factors(check, 64)
    assert raised == [2 * rule, 4 * rule]
    assert answer.learning_rate_factor == 2 * rule
    # The current size is trained at a higher rate too, so that the gains can be told apart.
    assert factors(check, 32) == [1.0, 2.0, 4.0]
    assert row_of(answer, 32)[0] == 2.0
    assert 1 / 1.05 <= row_of(answer, 32)[1] < 1.0
    first_of_each = tuple({t.batch_size: t for t in reversed(check.trainings)}.values())
    by_the_rule = recommend(about, replace(check, trainings=first_of_each), limits)
    assert by_the_rule.learning_rate_factor == rule
    harms = [row.harm for each in (answer, by_the_rule) for row in each.same_epochs if row.batch_size == 64]
    assert harms[0] is not None
    assert harms[1] is not None
    assert harms[0] < 0.95 * harms[1]


def test_the_current_size_is_kept_with_a_better_rate() -> None:
    machine = harmful(fastest_learning_rate_factor=0.25)
    about, limits = timed_curve(epochs=2.0), Limits(budget_seconds=60.0)
    check = assess(SimulatedEngine(machine), about, limits)
    answer = recommend(about, check, limits)
    assert answer.decision is not None
    assert answer.decision.action is Action.KEEP
    assert answer.batch_size == 32
    assert answer.learning_rate_factor == row_of(answer, 32)[0]
    assert answer.learning_rate == pytest.approx(0.1 * (answer.learning_rate_factor or 0.0))
    assert answer.learning_rate_factor in (0.25, 0.5)


@pytest.mark.parametrize(
    ("epochs", "raises", "lowers"), [(3.0, True, True), (500.0, False, False), (None, False, False)]
)
@pytest.mark.parametrize("best", [0.25, 4.0])
def test_short_parts_of_a_training_move_no_rate(
    epochs: float | None, raises: bool, lowers: bool, best: float
) -> None:
    about, limits = timed_curve(epochs=epochs), Limits(budget_seconds=60.0)
    check = assess(SimulatedEngine(harmful(fastest_learning_rate_factor=best)), about, limits)
    moved = [factor for factor in factors(check, 32) if factor != 1.0]
    assert bool(moved) == (raises if best > 1 else lowers)


def test_a_training_of_which_a_twentieth_fits_lowers_only() -> None:
    """A quarter of the time that is left is 7% of the training."""
    about = timed_curve(epochs=130.0)
    whole_seconds = 130 * 20_000 / 32 * MACHINE.step_seconds(32)
    limits = Limits(budget_seconds=0.14 * whole_seconds)
    check = assess(SimulatedEngine(harmful(fastest_learning_rate_factor=4.0)), about, limits)
    assert max(factors(check, 32)) == 1.0
    check = assess(SimulatedEngine(harmful(fastest_learning_rate_factor=0.25)), about, limits)
    assert min(factors(check, 32)) == 0.5


@pytest.mark.parametrize("best", [0.25, 4.0])
def test_a_rate_that_is_kept_is_that_of_all_trainings(best: float) -> None:
    limits = replace(EPOCHS, keep_learning_rate=True)
    about = timed_curve(epochs=2.0)
    engine = SimulatedEngine(harmless(fastest_learning_rate_factor=best))
    check = assess(engine, about, limits)
    assert {command.learning_rate_factor for command in engine.train_commands} == {1.0}
    assert engine.noise_commands[0].learning_rate_factor == 1.0
    answer = recommend(about, check, limits)
    assert answer.learning_rate_factor == 1.0
    assert answer.learning_rate == 0.1


def test_a_larger_size_at_the_kept_rate_makes_no_more_progress_in_a_step() -> None:
    """However much noise the gradient has, twice the size takes half of the steps."""
    about = timed_curve(epochs=100.0)
    check = assess(SimulatedEngine(harmless()), about, EPOCHS)
    assert recommend(about, check, EPOCHS).batch_size > 32
    limits = replace(EPOCHS, keep_learning_rate=True)
    assert recommend(about, check, limits).batch_size == 32


def test_a_size_that_diverges_at_the_kept_rate_is_not_tried_at_another() -> None:
    class Diverging(SimulatedEngine):
        pass

    engine = Diverging(harmless(highest_learning_rate_factor=0.5))
    check = assess(engine, timed_curve(epochs=2.0), replace(EPOCHS, keep_learning_rate=True))
    assert trained(engine) == [32]
    assert check.detail.startswith("at batch size 32: ")


def test_all_trainings_are_judged_on_the_same_samples() -> None:
    engine = SimulatedEngine(harmless())
    assess(engine, timed_curve(epochs=2.0), EPOCHS)
    assert len({(command.samples, command.part_size) for command in engine.train_commands}) == 1


def test_where_no_size_may_be_faster_and_no_rate_can_be_tried_nothing_is_trained() -> None:
    slow = timed_curve(epochs=None)
    slow = replace(slow, trials=tuple(builders.affine_trials(0.01, [1 << k for k in range(12)], 1e-5)))
    engine = SimulatedEngine(harmless())
    check = assess(engine, slow, EPOCHS)
    assert engine.train_commands == []
    assert check.detail == "no other size can be expected to be faster"
    assert recommend(slow, check, EPOCHS).batch_size == 32


def test_a_kept_rate_that_the_user_s_code_scales_is_trained_as_it_will_be() -> None:
    """Twice the batch size has twice the rate by itself."""
    limits = replace(EPOCHS, keep_learning_rate=True)
    about = timed_curve(epochs=2.0, learning_rate_power=1.0)
    engine = SimulatedEngine(harmless())
    check = assess(engine, about, limits)
    rates = {command.batch_size: command.learning_rate_factor for command in engine.train_commands}
    assert len(rates) > 1
    assert rates == {size: size / 32 for size in rates}
    answer = recommend(about, check, limits)
    assert answer.batch_size > 32
    assert answer.learning_rate_factor == answer.batch_size / 32

"""The order of the trainings for the same epochs: sizes upwards, repairs, then learning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.constants import MOST_TRAINED_SIZES
from autobatch.decision.equal_training import may_be_faster, next_run, octaves_below
from autobatch.decision.judgement import Judgement, judge
from autobatch.decision.next_training import Run
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, Evaluation, NoisePoint, Training
from autobatch.records.trial import Outcome
from tests import builders

SAMPLES = 1_000
SIZES = (8, 16, 32, 64, 128, 256, 512)
HARMLESS, HARMFUL = 1e6, 20.0

Train = Callable[[Run], Training]


def training(run: Run, epochs: float = 10.0, factor: float = 1.0, pace: float = 1.0) -> Training:
    """A training with `factor` times the usual loss, which falls at `pace` times the usual speed."""
    size = run.batch_size
    steps = round(epochs * SAMPLES / size)
    evaluations = tuple(
        Evaluation(
            steps=at,
            seconds=at / 1000,
            losses=(factor * (0.2 + (0.1 + pace * at * size / SAMPLES) ** -0.5),) * 4,
        )
        for at in sorted({round(steps * part / 20) for part in range(21)})
    )
    fields = {"evaluations": evaluations, "learning_rate_factor": run.learning_rate_factor}
    return builders.training(size, steps, lambda at: (), **fields)


def judged(
    trainings: Sequence[Training],
    epochs: float | None = 10.0,
    *,
    noise: float = HARMLESS,
    hardware_batch_size: float = 256,
    keeps_rate: bool = False,
) -> Judgement:
    points = tuple(NoisePoint(samples_seen=seen, batch_size=noise, low=noise) for seen in (250, 500, 1000))
    check: Check = builders.check(2 * noise, batch_size=32, noise_points=points, trainings=tuple(trainings))
    judgement = judge(
        TrialSet(tuple(builders.affine_trials(hardware_batch_size, SIZES))),
        check,
        current_size=32,
        samples=SAMPLES,
        epochs=epochs,
        keeps_rate=keeps_rate,
    )
    assert judgement is not None
    return judgement


def rule(size: int) -> float:
    return size / 32


def runs_of(train: Train, epochs: float | None = 10.0, **fields: float) -> list[tuple[int, float]]:
    """Sizes and rates (as multiples of the rule's) after the first training of the reference, in order."""
    trainings = [train(Run(batch_size=32, learning_rate_factor=1.0))]
    while (run := next_run(judged(trainings, epochs, **fields), rule)) is not None:  # type: ignore[arg-type]
        trainings.append(train(run))
        assert len(trainings) <= MOST_TRAINED_SIZES**2, "no end"
    return [(t.batch_size, t.learning_rate_factor / rule(t.batch_size)) for t in trainings[1:]]


def sizes_of(runs: Sequence[tuple[int, float]]) -> list[int]:
    return list(dict.fromkeys(size for size, _ in runs))


def failed(run: Run, outcome: Outcome = Outcome.DIVERGED) -> Training:
    return builders.failed_training(run.batch_size, outcome, learning_rate_factor=run.learning_rate_factor)


# Sizes


@pytest.mark.parametrize("epochs", [10.0, None])
def test_whole_trainings_go_upwards_from_the_reference(epochs: float | None) -> None:
    """A run stands for the whole training where the user's epochs are unknown. Four sizes are trained."""
    assert sizes_of(runs_of(training, epochs)) == [64, 128, 256]


def test_whole_trainings_stop_at_the_first_unsafe_size() -> None:
    worse = runs_of(lambda run: training(run, factor=1.2 if run.batch_size > 64 else 1.0))
    assert sizes_of(worse) == [64, 128]


def test_sizes_that_are_not_faster_are_not_trained() -> None:
    assert sizes_of(runs_of(training, hardware_batch_size=0.01)) == [32]
    assert may_be_faster(judged([], hardware_batch_size=0.01)) == []
    assert [row.batch_size for row in may_be_faster(judged([]))] == [64, 128, 256, 512]


def test_short_trainings_only_confirm_the_decision() -> None:
    assert runs_of(training, 300.0) == [(512, 1.0)]


def test_short_trainings_do_not_confirm_the_current_size() -> None:
    assert runs_of(training, 300.0, noise=HARMFUL) == []


def test_nothing_is_trained_without_harms() -> None:
    assert next_run(judged([]), rule) is None
    assert next_run(judged([builders.failed_training(32, Outcome.CRASHED)]), rule) is None


# Repairs


def test_a_size_that_diverges_is_tried_at_half_its_rate_whatever_the_length() -> None:
    def diverging(run: Run) -> Training:
        return failed(run) if run.learning_rate_factor > 10 else training(run)

    assert runs_of(diverging, 300.0) == [(512, 1.0), (512, 0.5)]
    assert runs_of(diverging, None)[:4] == [(64, 1.0), (128, 1.0), (256, 1.0)]


def test_a_size_that_diverges_at_half_its_rate_as_well_leaves_the_smaller_ones() -> None:
    def diverging(run: Run) -> Training:
        return failed(run) if run.batch_size == 512 else training(run)

    assert runs_of(diverging, 300.0) == [(512, 1.0), (512, 0.5), (256, 1.0)]


def test_beyond_a_size_that_diverged_only_trained_sizes_are_safe() -> None:
    runs = [Run(batch_size=size, learning_rate_factor=factor) for size, factor in ((64, 2.0), (64, 1.0))]
    judgement = judged(
        [training(Run(batch_size=32, learning_rate_factor=1.0)), failed(runs[0]), training(runs[1])]
    )
    assert [row.batch_size for row in judgement.rows if row.safe] == [8, 16, 32, 64]
    assert octaves_below(judgement, 64, rule) == octaves_below(judgement, 512, rule) == -1
    assert octaves_below(judgement, 32, rule) == 0


def test_a_size_that_failed_for_another_reason_is_not_repeated() -> None:
    def failing(run: Run) -> Training:
        return training(run) if run.batch_size == 32 else failed(run, Outcome.CRASHED)

    assert runs_of(failing, None) == [(64, 1.0)]


def too_high_at_first(run: Run) -> Training:
    """Above half of the rule's rate the loss stays at its first value."""
    is_low = run.learning_rate_factor <= 0.5 * rule(run.batch_size)
    return training(run, pace=1.0 if is_low else 0.0)


def test_the_reference_comes_down_to_a_rate_at_which_it_trains_before_larger_sizes() -> None:
    """At the first rate all sizes end at the same loss, as none of them learns."""
    runs = runs_of(too_high_at_first)
    assert runs[0] == (32, 0.25)
    assert (64, 0.25) in runs
    assert (64, 1.0) not in runs


def test_sizes_are_compared_with_the_reference_at_the_rate_at_which_it_trains() -> None:
    reference = [Run(batch_size=32, learning_rate_factor=factor) for factor in (1.0, 0.25)]
    trainings = [too_high_at_first(run) for run in reference]
    assert judged(trainings[:1]).is_stuck
    judgement = judged(trainings)
    assert judgement.rescued
    assert not judgement.is_stuck
    assert judgement.rates[32].factor == 0.25
    worse = too_high_at_first(Run(batch_size=64, learning_rate_factor=2.0))
    assert [row.safe for row in judged([*trainings, worse]).rows if row.batch_size == 64] == [False]
    # Beside the training that learns nothing, it looked harmless.
    assert [row.safe for row in judged([trainings[0], worse]).rows if row.batch_size == 64] == [True]


@pytest.mark.parametrize("epochs", [0.0, 0.5])
def test_a_reference_that_diverges_is_tried_at_half_its_rate(epochs: float) -> None:
    partly = training(Run(batch_size=32, learning_rate_factor=1.0), epochs)
    diverged = replace(partly, outcome=Outcome.DIVERGED)
    judgement = judged([diverged])
    assert judgement.run_epochs == 0.0
    assert next_run(judgement, rule) == Run(batch_size=32, learning_rate_factor=0.5)
    repaired = judged([diverged, training(Run(batch_size=32, learning_rate_factor=0.5))])
    assert repaired.run_epochs == pytest.approx(10.0, rel=0.01)
    assert repaired.rescued
    assert 64 in repaired.harms


# Learning rates


def test_a_raised_rate_is_taken_to_the_next_larger_size() -> None:
    """At the rule's rate 64 is too slow. Twice the rate makes up for that, at 128 not enough."""

    def quick_at_twice_the_rate(run: Run) -> Training:
        raised = run.learning_rate_factor / rule(run.batch_size)
        losses = {32: 1.0, 64: 1.05, 128: 1.3}
        pace = 2.0 if raised == 2 else 1.0 if raised < 2 else 0.5
        return training(run, factor=losses.get(run.batch_size, 2.0), pace=pace)

    runs = runs_of(quick_at_twice_the_rate)
    assert runs == [(64, 1.0), (32, 2.0), (64, 2.0), (128, 2.0), (64, 4.0), (32, 4.0)]


def test_the_rate_of_the_current_size_is_left_alone_where_the_answer_keeps_the_rule() -> None:
    runs = runs_of(lambda run: training(run, factor=1.2 if run.batch_size > 64 else 1.0))
    assert (32, 2.0) not in runs
    assert runs[2:] == [(64, 2.0), (64, 0.5)]


def test_a_kept_rate_is_not_walked() -> None:
    trainings = [training(Run(batch_size=32, learning_rate_factor=1.0))]
    while (run := next_run(judged(trainings, keeps_rate=True), lambda size: 1.0)) is not None:
        trainings.append(training(run, factor=1.2))
    assert {t.learning_rate_factor for t in trainings} == {1.0}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([None, 5.0, 10.0, 60.0, 300.0]),
    st.floats(1.0, 1e5),
    st.lists(st.floats(0.8, 1.5), min_size=len(SIZES), max_size=len(SIZES)),
    st.floats(0.1, 10.0),
    st.floats(2.0, 50.0),
)
def test_each_size_is_trained_once_at_most_at_each_rate(
    epochs: float | None, noise: float, factors: list[float], best: float, most: float
) -> None:
    by_size = dict(zip(SIZES, factors, strict=True))

    def train(run: Run) -> Training:
        distance = abs(run.learning_rate_factor / rule(run.batch_size) / best - 1)
        if run.batch_size != 32 and run.learning_rate_factor > most:
            return failed(run)
        return training(run, factor=by_size[run.batch_size], pace=1 / (1 + distance))

    runs = runs_of(train, epochs, noise=noise)
    assert len(set(runs)) == len(runs)
    assert len({32, *sizes_of(runs)}) <= MOST_TRAINED_SIZES
    if epochs is None:
        assert max((rate for _, rate in runs), default=1.0) <= 1.0

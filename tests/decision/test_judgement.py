"""Every timed size beside the current one at the same epochs, and its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.judgement import Judgement, judge
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, Evaluation, NoisePoint, Training, Veto
from autobatch.records.recommendation import Action
from tests import builders

SAMPLES = 1_000
SIZES = (8, 16, 32, 64, 128, 256, 512)
HARMLESS, HARMFUL = 1e6, 20.0
"""Gradient noise scales, in samples, at which larger sizes lose nothing, or much."""


def loss_after(epochs: float) -> float:
    return 0.2 + (0.1 + epochs) ** -0.5


def training(size: int, epochs: float = 10.0, factor: float = 1.0) -> Training:
    """A training whose losses are `factor` times those of the current size at the same epochs.

    As in whole trainings, its last quarter has five evaluations at least.
    """
    steps = round(epochs * SAMPLES / size)
    evaluations = tuple(
        Evaluation(steps=at, seconds=at / 1000, losses=(factor * loss_after(at * size / SAMPLES),) * 4)
        for at in sorted({round(steps * part / 20) for part in range(21)})
    )
    return builders.training(size, steps, lambda at: (), evaluations=evaluations)


def check(trainings: Sequence[Training] = (), noise: float = HARMLESS, **fields: object) -> Check:
    points = tuple(NoisePoint(samples_seen=seen, batch_size=noise, low=noise) for seen in (250, 500, 1000))
    usual = {"batch_size": 32, "noise_points": points, "trainings": tuple(trainings)}
    return builders.check(2 * noise, **(usual | fields))


def trials(hardware_batch_size: float = 256, sizes: Sequence[int] = SIZES) -> TrialSet:
    return TrialSet(tuple(builders.affine_trials(hardware_batch_size, sizes)))


def judged(
    measured: Check,
    permitted: TrialSet | None = None,
    *,
    current_size: int | None = 32,
    samples: int | None = SAMPLES,
    epochs: float | None = 10.0,
    keeps_rate: bool = False,
) -> Judgement:
    judgement = judge(
        permitted or trials(),
        measured,
        current_size=current_size,
        samples=samples,
        epochs=epochs,
        keeps_rate=keeps_rate,
    )
    assert judgement is not None
    return judgement


# The judgement


def test_a_harmless_faster_size_is_a_change() -> None:
    judgement = judged(check([training(32)]))
    assert judgement.reference == 32
    assert judgement.run_epochs == pytest.approx(10.0, rel=0.01)
    assert judgement.decision.action is Action.CHANGE
    assert judgement.decision.batch_size == 512
    speedups = {row.batch_size: row.speedup for row in judgement.rows}
    assert list(speedups) == list(SIZES)
    assert speedups[128] == pytest.approx(4 * (1 + 32 / 256) / (1 + 128 / 256))


def test_a_larger_size_that_ends_at_a_higher_loss_is_no_change() -> None:
    judgement = judged(check([training(32)], HARMFUL))
    assert judgement.decision.batch_size == 32
    harms = {row.batch_size: row.harm for row in judgement.rows}
    assert harms[32] == pytest.approx(1.0, abs=0.01)
    assert harms[64] is not None
    assert harms[64] > 1.1


def test_whole_trainings_overrule_the_prediction() -> None:
    larger = [training(size) for size in (64, 128)]
    judgement = judged(check([training(32), *larger], noise=100.0))
    assert not {row.batch_size: row.safe for row in judged(check([training(32)], noise=100.0)).rows}[64]
    assert judgement.decision.batch_size in (64, 128)


@pytest.mark.parametrize("measured", [check(), check([builders.failed_training(32)])])
def test_without_a_loss_curve_of_the_reference_it_is_kept(measured: Check) -> None:
    judgement = judged(measured)
    assert judgement.harms == {}
    assert judgement.decision.action is Action.KEEP
    assert judgement.decision.batch_size == 32
    assert judgement.run_epochs == 0


def test_a_data_set_of_unknown_size_has_no_harms() -> None:
    judgement = judged(check([training(32)]), samples=None)
    assert judgement.harms == {}
    assert judgement.decision.batch_size == 32


def test_a_training_of_another_size_is_no_curve_of_the_reference() -> None:
    assert judged(check([training(64)])).harms == {}


@pytest.mark.parametrize(
    ("current_size", "of_check", "sizes", "reference"),
    [
        (32, 32, SIZES, 32),
        (4096, 512, SIZES, 512),
        (None, None, SIZES, 32),
        (4096, None, SIZES, 512),
        # The check's reference is not permitted: the nearest size to the current one is.
        (32, 32, (8, 16), 16),
    ],
)
def test_the_reference_is_the_current_size_or_stands_for_it(
    current_size: int | None, of_check: int | None, sizes: Sequence[int], reference: int
) -> None:
    measured = check(batch_size=of_check)
    assert judged(measured, trials(sizes=sizes), current_size=current_size).reference == reference


def test_nothing_is_judged_without_a_timed_size() -> None:
    untimed = TrialSet((builders.trial(32, rounds=0),))
    assert judge(untimed, check(), current_size=32, samples=SAMPLES, epochs=10.0) is None


def test_a_veto_makes_its_size_and_all_larger_ones_unsafe() -> None:
    vetoed = (Veto(batch_size=128, reason="the training diverged"),)
    judgement = judged(check([training(32)], vetoed=vetoed))
    rows = {row.batch_size: row for row in judgement.rows}
    assert rows[128].harm is None
    assert [size for size in SIZES if size > 32 and rows[size].safe] == [64]
    assert judgement.decision.batch_size == 64


@settings(max_examples=50, deadline=None)
@given(
    st.floats(2.0, 2000.0),
    st.floats(1.0, 1e5),
    st.none() | st.floats(1.0, 1000.0),
    st.dictionaries(st.sampled_from(SIZES), st.floats(0.8, 2.0)),
)
def test_the_decision_is_a_timed_size_and_keeps_without_harms(
    hardware_batch_size: float, noise: float, epochs: float | None, factors: dict[int, float]
) -> None:
    length = min(epochs or 10.0, 10.0)
    trainings = [training(size, length, factor) for size, factor in factors.items()]
    judgement = judged(check(trainings, noise), trials(hardware_batch_size), epochs=epochs)
    assert judgement.decision.batch_size in SIZES
    assert bool(judgement.harms) == (32 in factors)
    if not judgement.harms:
        assert judgement.decision.batch_size == 32
    chosen = next(row for row in judgement.rows if row.batch_size == judgement.decision.batch_size)
    assert chosen.safe
    assert chosen.batch_size == 32 or chosen.interval[0] > 1


# Learning rates


def at_rate(size: int, factor: float, lead: float = 0.0) -> Training:
    """A whole training at a learning rate, ahead of the others by a share of their steps."""
    measured = training(size)
    ahead = tuple(
        replace(e, losses=(loss_after((1 + lead) * e.steps * size / SAMPLES),) * 4)
        for e in measured.evaluations
    )
    return replace(measured, learning_rate_factor=factor, evaluations=ahead)


def test_a_faster_rate_is_that_of_its_size_and_its_gain_is_told_apart() -> None:
    runs = [at_rate(32, 1.0), at_rate(64, 1.5), at_rate(64, 3.0, lead=1.0)]
    judgement = judged(check(runs))
    rows = {row.batch_size: row for row in judgement.rows}
    assert rows[32].learning_rate_factor == 1.0
    assert (rows[64].learning_rate_factor, rows[128].learning_rate_factor) == (3.0, None)
    assert rows[32].rate_gain == 1.0
    assert 1 / 1.05 <= rows[64].rate_gain < 1.0
    assert rows[64].harm is not None
    assert rows[64].harm < 0.99


def test_the_current_size_has_a_harm_below_1_at_a_better_rate() -> None:
    judgement = judged(check([at_rate(32, 1.0), at_rate(32, 2.0, lead=1.0)], HARMFUL))
    (row,) = (row for row in judgement.rows if row.batch_size == 32)
    assert row.learning_rate_factor == 2.0
    assert row.harm is not None
    assert row.harm < 0.99
    assert judgement.decision.batch_size == 32
    assert judgement.decision.action is Action.KEEP


@pytest.mark.parametrize(("epochs", "factor"), [(10.0, 2.0), (99.0, 2.0), (150.0, 1.0), (None, 1.0)])
def test_a_tenth_of_the_training_may_raise_a_rate(epochs: float | None, factor: float) -> None:
    judgement = judged(check([at_rate(32, 1.0), at_rate(32, 2.0, lead=1.0)]), epochs=epochs)
    assert judgement.rates[32].factor == factor


def test_a_part_of_a_training_credits_half_of_the_gain_that_it_shows() -> None:
    rule, faster = at_rate(64, 1.0), at_rate(64, 2.0, lead=0.2)
    before = judged(check([at_rate(32, 1.0), rule], HARMFUL), epochs=99.0)
    after = judged(check([at_rate(32, 1.0), rule, faster], HARMFUL), epochs=99.0)
    shown = rule.evaluations[-1].losses[0] / faster.evaluations[-1].losses[0]
    gain = before.harms[64].log_harm - after.harms[64].log_harm
    assert after.rates[64].factor in (1.0, 2.0)
    assert gain == pytest.approx(0.0 if after.rates[64].factor == 1.0 else log(shown) / 2, abs=0.005)


def test_a_kept_rate_is_never_left() -> None:
    runs = [at_rate(32, 1.0), at_rate(32, 2.0, lead=1.0)]
    judgement = judged(check(runs), keeps_rate=True)
    assert judgement.next_factor(32) is None
    assert all(row.harm is None or row.harm >= 0.99 for row in judgement.rows if row.batch_size == 32)


def test_larger_sizes_are_worse_at_a_kept_rate() -> None:
    harms = [judged(check([training(32)]), keeps_rate=keeps).harms[64].log_harm for keeps in (False, True)]
    assert harms[0] < 0.01
    assert harms[1] > 0.05

"""Fitted loss curves: they follow power laws, and their weights add up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.loss_extrapolation import LossCurve, fit_loss_curve, loss_curve
from autobatch.records.check import Evaluation, Training
from autobatch.records.trial import Outcome

SAMPLES = 1_000
EPOCHS = tuple(k / 10 for k in range(1, 101))

exponents = st.floats(0.15, 1.0)
asymptotes = st.floats(0.0, 2.0)


def power_law(exponent: float, asymptote: float) -> LossCurve:
    return LossCurve(epochs=EPOCHS, losses=tuple(asymptote + e**-exponent for e in EPOCHS))


@given(exponents, asymptotes)
def test_the_fit_follows_the_curve_and_its_weights_add_up(exponent: float, asymptote: float) -> None:
    fits = fit_loss_curve(power_law(exponent, asymptote))
    assert sum(fit.weight for fit in fits) == pytest.approx(1)
    expected = sum(fit.weight * fit.log_loss(math.log(10)) for fit in fits)
    assert math.exp(expected) == pytest.approx(asymptote + 10**-exponent, rel=0.01)


def test_a_training_becomes_a_curve_over_epochs() -> None:
    training = Training(
        batch_size=50,
        learning_rate_factor=1.0,
        outcome=Outcome.OK,
        steps=20,
        seconds=1.0,
        evaluations=tuple(
            Evaluation(steps=steps, seconds=0.1, losses=losses)
            for steps, losses in ((0, (3.0, 5.0)), (10, (2.0, 4.0)), (20, (1.0, 3.0)))
        ),
    )
    assert loss_curve(training, SAMPLES) == LossCurve(epochs=(0.5, 1.0), losses=(3.0, 2.0), first_loss=4.0)
    assert loss_curve(replace(training, outcome=Outcome.DIVERGED), SAMPLES).failed


def test_a_curve_that_does_not_fall_has_a_flat_fit() -> None:
    (fit,) = fit_loss_curve(LossCurve(epochs=EPOCHS, losses=tuple(1 + e for e in EPOCHS)))
    assert fit.exponent == 0
    assert fit.log_loss(0.0) == fit.log_loss(9.0)


def test_too_few_evaluations_have_no_fit() -> None:
    assert fit_loss_curve(LossCurve(epochs=(), losses=())) == ()
    assert fit_loss_curve(LossCurve(epochs=(1.0, 2.0), losses=(2.0, 1.0))) == ()


@given(exponents, st.floats(0.5, 2.0))
def test_fits_extrapolate_a_curve_with_noise(exponent: float, asymptote: float) -> None:
    wobbly = LossCurve(
        epochs=EPOCHS,
        losses=tuple(
            (asymptote + e**-exponent) * (1 + 0.01 * (-1) ** place) for place, e in enumerate(EPOCHS)
        ),
    )
    expected = sum(fit.weight * math.exp(fit.log_loss(math.log(40))) for fit in fit_loss_curve(wobbly))
    assert expected == pytest.approx(asymptote + 40**-exponent, rel=0.1)


def test_a_part_of_a_curve_ends_where_it_is_cut() -> None:
    part = power_law(0.5, 0.0).until(2.0)
    assert part.epochs[-1] == 2.0
    assert part.end_loss() == pytest.approx(sum(e**-0.5 for e in (1.8, 1.9, 2.0)) / 3)

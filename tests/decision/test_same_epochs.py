"""Harm at the same epochs: closed forms of simple worlds, invariances, and which sizes are safe."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.decision.loss_extrapolation import LossCurve
from autobatch.decision.same_epochs import (
    HARM_TOLERANCE,
    LEAST_EXPONENT,
    Course,
    HarmEstimate,
    NoisePoint,
    epoch_shift,
    estimate_harms,
    safe_sizes,
)

SAMPLES = 1_000
EPOCHS = tuple(k / 10 for k in range(1, 101))

exponents = st.floats(0.15, 1.0)
asymptotes = st.floats(0.0, 2.0)
noises = st.floats(1.0, 1e4)
sizes = st.integers(33, 4096)


def power_law(exponent: float, asymptote: float, epochs: tuple[float, ...] = EPOCHS) -> LossCurve:
    """L = asymptote + e^-exponent; 3 more before the first step."""
    return LossCurve(
        epochs=epochs, losses=tuple(asymptote + e**-exponent for e in epochs), first_loss=asymptote + 3
    )


def course(
    curve: LossCurve,
    noise: float | tuple[NoisePoint, ...] = 100.0,
    epochs: float | None = 20.0,
    size: int = 32,
) -> Course:
    points = (
        noise if isinstance(noise, tuple) else (NoisePoint(samples_seen=500, batch_size=noise, low=noise),)
    )
    return Course(current_size=size, samples=SAMPLES, epochs=epochs, curve=curve, noise=points)


def harm(of: Course, size: int) -> float:
    """The expected ratio of final losses."""
    return math.exp(estimate_harms(of, (size,), {})[size].log_harm)


@given(noises, sizes)
def test_the_shift_with_constant_noise_is_the_ratio_of_samples(noise: float, size: int) -> None:
    ratio = (size + noise) / (32 + noise)
    assert math.exp(epoch_shift(course(power_law(0.5, 0), noise), size)) == pytest.approx(ratio, rel=1e-6)


def test_the_shift_of_a_smaller_size_is_negative() -> None:
    assert math.exp(epoch_shift(course(power_law(0.5, 0)), 8)) == pytest.approx(108 / 132, rel=1e-6)


@given(sizes)
def test_rising_noise_counts_along_the_course(size: int) -> None:
    rising = tuple(NoisePoint(samples_seen=SAMPLES * e, batch_size=30 * e, low=30 * e) for e in (1, 2, 4, 8))
    shift = epoch_shift(course(power_law(0.5, 0), rising), size)
    least, most = (epoch_shift(course(power_law(0.5, 0), noise), size) for noise in (240.0, 30.0))
    assert least < shift < most


def test_noise_measured_after_the_user_has_stopped_does_not_count() -> None:
    early = NoisePoint(samples_seen=SAMPLES, batch_size=50, low=50)
    late = NoisePoint(samples_seen=9 * SAMPLES, batch_size=5_000, low=5_000)
    curve = power_law(0.5, 0)
    assert epoch_shift(course(curve, (early, late), epochs=2), 256) == pytest.approx(
        epoch_shift(course(curve, (early,), epochs=2), 256)
    )


def test_an_uncertain_noise_scale_counts_for_four_times_its_lower_bound() -> None:
    uncertain = NoisePoint(samples_seen=SAMPLES, batch_size=10_000, low=20)
    assert math.exp(epoch_shift(course(power_law(0.5, 0), (uncertain,)), 256)) == pytest.approx(
        (256 + 80) / (32 + 80), rel=1e-6
    )


@given(exponents, sizes)
def test_harm_of_a_pure_power_law_is_a_power_of_the_shift(exponent: float, size: int) -> None:
    expected = ((size + 100) / 132) ** exponent
    assert harm(course(power_law(exponent, 0)), size) == pytest.approx(expected, rel=0.01)


@given(exponents, asymptotes, st.floats(10, 100), st.integers(33, 512))
def test_harm_is_near_the_truth_far_beyond_the_run(
    exponent: float, asymptote: float, epochs: float, size: int
) -> None:
    ratio = (size + 100) / 132
    late, early = (asymptote + e**-exponent for e in (epochs, epochs / ratio))
    expected = max(early / late, ratio**LEAST_EXPONENT)
    assert harm(course(power_law(exponent, asymptote), epochs=epochs), size) == pytest.approx(
        expected, rel=0.05
    )


@given(exponents, asymptotes, st.integers(33, 2048), st.floats(1.1, 4.0))
def test_harm_grows_with_the_size(exponent: float, asymptote: float, size: int, factor: float) -> None:
    of = course(power_law(exponent, asymptote))
    assert harm(of, size) < harm(of, math.ceil(factor * size))


@given(exponents, asymptotes, sizes, st.floats(1e-6, 1e6))
def test_the_unit_of_the_loss_does_not_matter(
    exponent: float, asymptote: float, size: int, unit: float
) -> None:
    curve = power_law(exponent, asymptote)
    restated = replace(
        curve, losses=tuple(unit * loss for loss in curve.losses), first_loss=unit * (asymptote + 3)
    )
    assert harm(course(restated), size) == pytest.approx(harm(course(curve), size), rel=1e-6)


@given(exponents, st.floats(0.3, 2.0), sizes, st.floats(10, 1000))
def test_unknown_epochs_are_on_the_safe_side(
    exponent: float, asymptote: float, size: int, epochs: float
) -> None:
    curve = power_law(exponent, asymptote)
    assert harm(course(curve, epochs=None), size) >= harm(course(curve, epochs=epochs), size) * 0.999


def test_epochs_shorter_than_the_run_use_that_part_of_it() -> None:
    curve = power_law(0.5, 0.2)
    cut = course(curve.until(2.0), epochs=2.0)
    assert harm(course(curve, epochs=2.0), 128) == pytest.approx(harm(cut, 128))


@pytest.mark.parametrize("slope", [0.0, 0.02])
def test_a_loss_that_no_longer_falls_does_not_make_large_sizes_safe(slope: float) -> None:
    flat = LossCurve(epochs=EPOCHS, losses=tuple(1 + slope * e for e in EPOCHS), first_loss=3.0)
    of = course(flat)
    assert harm(of, 512) == pytest.approx(math.exp(LEAST_EXPONENT * epoch_shift(of, 512)))
    assert safe_sizes(32, estimate_harms(of, (512,), {})) == (32,)


def test_a_failed_training_makes_its_size_and_all_beyond_unsafe() -> None:
    of = course(power_law(0.2, 1.0), noise=1e6)
    curves = {64: replace(power_law(0.2, 1.0), failed=True)}
    harms = estimate_harms(of, (64, 128), curves)
    assert harms[64].log_harm == math.inf
    assert safe_sizes(32, harms) == (32,)
    assert safe_sizes(32, estimate_harms(of, (64, 128), {})) == (32, 64, 128)


def test_whole_trainings_move_the_estimate_towards_the_comparison() -> None:
    of = course(power_law(0.3, 0.5), epochs=10.0)
    predicted = harm(of, 256)
    same = power_law(0.3, 0.5)
    pooled = estimate_harms(of, (256,), {256: same})[256]
    assert predicted > 1 + HARM_TOLERANCE
    assert 1 <= math.exp(pooled.log_harm) < 1 + HARM_TOLERANCE
    assert pooled.sd < estimate_harms(of, (256,), {})[256].sd


@given(st.floats(0.0, 1.0), exponents)
def test_a_lead_of_a_larger_size_is_luck_beyond_the_gain_of_its_rate(gain: float, exponent: float) -> None:
    of = course(power_law(exponent, 0.5), epochs=10.0)
    lower = power_law(exponent, 0.5)
    lower = replace(lower, losses=tuple(loss / 3 for loss in lower.losses))
    harms = {log_gain: estimate_harms(of, (64,), {64: lower}, {64: log_gain})[64] for log_gain in (0.0, gain)}
    assert harms[0.0].log_harm >= 0
    assert harms[gain].log_harm == pytest.approx(harms[0.0].log_harm - gain)


@pytest.mark.parametrize("noisy", ["current", "other"])
def test_a_comparison_is_as_unsure_as_the_noise_of_both_curves(noisy: str) -> None:
    """The noise of the early part counts too: a training that has settled hides that seeds differ."""
    quiet = power_law(0.3, 0.5)
    early = [1.3 if i % 2 and i < 60 else 1.0 for i in range(len(EPOCHS))]
    jumpy = replace(quiet, losses=tuple(a * b for a, b in zip(quiet.losses, early, strict=True)))
    pair = (jumpy, quiet) if noisy == "current" else (quiet, jumpy)
    steady = estimate_harms(course(quiet, epochs=10.0), (256,), {256: quiet})[256]
    unsure = estimate_harms(course(pair[0], epochs=10.0), (256,), {256: pair[1]})[256]
    assert unsure.sd > 2 * steady.sd


def test_a_training_with_too_few_evaluations_at_its_end_says_nothing() -> None:
    of = course(power_law(0.3, 0.5), epochs=None)
    sparse = LossCurve(epochs=(4.0, 12.0), losses=(1.0, 0.9), first_loss=3.5)
    assert estimate_harms(of, (512,), {512: sparse}) == estimate_harms(of, (512,), {})


def test_trainings_at_other_sizes_are_left_alone() -> None:
    of = course(power_law(0.3, 0.5), epochs=10.0)
    curves = {32: power_law(0.3, 0.5), 512: power_law(0.3, 0.5)}
    assert estimate_harms(of, (256,), curves) == estimate_harms(of, (256,), {})


def test_a_short_training_at_a_size_is_no_comparison_of_whole_ones() -> None:
    of = course(power_law(0.3, 0.5), epochs=40.0)
    assert estimate_harms(of, (256,), {256: power_law(0.3, 0.5)}) == estimate_harms(of, (256,), {})


@pytest.mark.parametrize("offset", [-10.0, -0.5])
def test_losses_below_zero_are_judged_by_their_fall(offset: float) -> None:
    curve = power_law(0.5, 0.0)
    restated = replace(curve, losses=tuple(x + offset for x in curve.losses), first_loss=0.9 + offset)
    for epochs, tolerance in ((10.0, 0.02), (20.0, 0.1)):
        end = epochs**-0.5
        expected = 1 + end * (math.sqrt(356 / 132) - 1) / (0.9 - end)
        ratio = harm(course(restated, epochs=epochs), 256)
        assert expected * 0.99 < ratio < expected * (1 + tolerance)


def test_losses_that_neither_fell_nor_are_positive_are_not_judged() -> None:
    negative = LossCurve(epochs=EPOCHS, losses=(-1.0,) * len(EPOCHS), first_loss=-1.0)
    assert estimate_harms(course(negative), (64,), {}) == {}
    assert estimate_harms(course(replace(negative, first_loss=None)), (64,), {}) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"curve": replace(power_law(0.5, 0), failed=True)},
        {"noise": ()},
        {"noise": (NoisePoint(samples_seen=500, batch_size=9.0, low=0.0),)},
        {"epochs": 0.05},
        {"curve": LossCurve(epochs=(), losses=())},
        {"curve": power_law(0.5, 0, (1.0, 2.0))},
    ],
)
def test_nothing_is_judged_without_a_curve_and_noise(changes: dict[str, object]) -> None:
    of = replace(course(power_law(0.5, 0)), **changes)
    assert estimate_harms(of, (64,), {}) == {}
    assert safe_sizes(32, {}) == (32,)


def test_sizes_beyond_an_unsafe_size_are_unsafe() -> None:
    harms = {
        size: HarmEstimate(log_harm=log_harm, sd=0.01)
        for size, log_harm in ((8, -0.1), (16, 0.0), (64, 0.01), (128, 0.05), (256, 0.0))
    }
    assert safe_sizes(32, harms) == (8, 16, 32, 64)

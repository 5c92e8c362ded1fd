"""The noise scale: the right value, an honest interval, the identities that it has to obey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.noise_scale import (
    CriticalBatchSize,
    NoiseScale,
    critical_batch_size,
    noise_scale,
    samples_wanted,
)

Gradients = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """Inputs N(0, 1), labels from a linear model with normal noise, weights at distance 1 from the truth."""

    features: int
    noise_sd: float

    @property
    def true(self) -> float:
        return self.features + 1 + self.noise_sd**2 * self.features

    def gradients(self, samples: int, seed: int) -> Gradients:
        """One gradient of (x.w - y)^2 / 2 for each sample."""
        random = np.random.default_rng(seed)
        inputs = random.standard_normal((samples, self.features))
        offset = np.full(self.features, self.features**-0.5)
        errors = inputs @ offset - self.noise_sd * random.standard_normal(samples)
        found: Gradients = inputs * errors[:, None]
        return found

    def estimate(self, samples: int, seed: int, chunks: int = 32) -> NoiseScale:
        chunk_size = max(2, samples // chunks)
        return measured(in_chunks(self.gradients(chunks * chunk_size, seed), chunks), chunk_size)


NOISY = Linear(features=60, noise_sd=1.2)
QUIET = Linear(features=150, noise_sd=0.3)


def in_chunks(samples: Gradients, chunks: int) -> Gradients:
    """The mean gradient of each chunk."""
    means: Gradients = samples.reshape(chunks, -1, samples.shape[1]).mean(axis=1)
    return means


def measured(gradients: Gradients, chunk_size: int) -> NoiseScale:
    return noise_scale(
        chunk_size, (gradients**2).sum(axis=1).tolist(), (gradients @ gradients.sum(axis=0)).tolist()
    )


def folded(gradients: Gradients, width: int, seed: int) -> Gradients:
    """Each gradient times random signs, folded by position modulo `width`."""
    entries = gradients.shape[1]
    signed = gradients * np.random.default_rng(seed).choice([-1.0, 1.0], entries)
    padded = np.pad(signed, ((0, 0), (0, -entries % width)))
    rows: Gradients = padded.reshape(len(gradients), -1, width).sum(axis=1)
    return rows


def sketched(gradients: Gradients, chunk_size: int, width: int, seed: int) -> NoiseScale:
    rows = folded(gradients, width, seed)
    norms = (gradients**2).sum(axis=1)
    products = rows @ rows.sum(axis=0) - (rows**2).sum(axis=1) + norms
    return noise_scale(
        chunk_size, norms.tolist(), products.tolist(), float((gradients.sum(axis=0) ** 2).sum())
    )


def test_with_many_samples_it_is_the_analytic_value() -> None:
    found = [QUIET.estimate(64 * round(QUIET.true), seed).batch_size / QUIET.true for seed in range(60)]
    assert all(abs(one - 1) < 0.15 for one in found)
    assert abs(float(np.mean(found)) - 1) < 0.05


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_nine_in_ten_intervals_hold_the_true_value(multiple: int) -> None:
    found = [NOISY.estimate(multiple * round(NOISY.true), 1000 + seed) for seed in range(300)]
    covered = sum(one.low <= NOISY.true <= one.high for one in found) / len(found)
    assert 0.85 <= covered <= 0.97


def test_with_too_few_samples_it_says_that_it_is_lost() -> None:
    found = [NOISY.estimate(64, 5000 + seed) for seed in range(400)]
    assert sum(one.low <= NOISY.true <= one.high for one in found) / len(found) >= 0.85
    assert any(one.high == math.inf for one in found)
    for one in found:
        assert one.valid == math.isfinite(one.batch_size)
        assert 0 <= one.low <= one.batch_size <= one.high
        if not one.valid:
            assert one.batch_size == one.high == math.inf


def test_no_signal_at_all_is_invalid_with_a_lower_bound() -> None:
    gradients = np.random.default_rng(3).standard_normal((32, 40))
    gradients -= gradients.mean(axis=0)
    found = measured(gradients, 8)
    assert not found.valid
    assert found.batch_size == found.high == math.inf
    # The signal is below its own error, so the noise scale is far above the samples seen.
    assert found.low > found.samples


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    chunks=st.integers(4, 40),
    entries=st.integers(1, 20),
    chunk_size=st.integers(1, 64),
    signal=st.floats(0.5, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_the_two_batch_estimator(
    chunks: int, entries: int, chunk_size: int, signal: float, seed: int
) -> None:
    """McCandlish et al. 2018, appendix A.1, with batches of b and K b samples."""
    gradients = signal + np.random.default_rng(seed).standard_normal((chunks, entries))
    small, large = chunk_size, chunk_size * chunks
    small_norm = float((gradients**2).sum(axis=1).mean())
    large_norm = float((gradients.mean(axis=0) ** 2).sum())
    true_norm = (large * large_norm - small * small_norm) / (large - small)
    trace = (small_norm - large_norm) / (1 / small - 1 / large)
    found = measured(gradients, chunk_size)
    if true_norm > 1e-3 * large_norm:
        assert found.batch_size == pytest.approx(trace / true_norm, rel=1e-9)
        assert found.low <= found.batch_size <= found.high
    elif true_norm < 0:
        assert not found.valid


@settings(max_examples=40, deadline=None, derandomize=True)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
def test_scaling_the_loss_changes_nothing(scale: float, seed: int) -> None:
    gradients = in_chunks(NOISY.gradients(512, seed), 32)
    one, other = measured(gradients, 16), measured(scale * gradients, 16)
    assert one.valid == other.valid
    for name in ("batch_size", "low", "high"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9)


def test_doubling_every_sample_inside_its_chunk_doubles_it() -> None:
    gradients = in_chunks(NOISY.gradients(2048, 5), 32)
    one, doubled = measured(gradients, 64), measured(gradients, 128)
    for name in ("batch_size", "low", "high"):
        assert getattr(doubled, name) == pytest.approx(2 * getattr(one, name), rel=1e-12)


def test_the_same_samples_in_other_chunks_say_the_same() -> None:
    samples = NOISY.gradients(4096, 7)
    found = [measured(in_chunks(samples, 4096 // size), size) for size in (2, 4, 8, 16, 32, 64, 128)]
    for one in found:
        assert all(other.low <= one.batch_size <= other.high for other in found)


def test_the_interval_is_the_delete_one_jackknife() -> None:
    gradients = in_chunks(NOISY.gradients(1024, 11), 32)
    found = measured(gradients, 32)
    left_out = [math.log(measured(np.delete(gradients, k, axis=0), 32).batch_size) for k in range(32)]
    error = math.sqrt(31 / 32 * sum((one - np.mean(left_out)) ** 2 for one in left_out))
    # Student's t at 95% for 31 degrees of freedom.
    assert math.log(found.high / found.batch_size) == pytest.approx(1.6955 * error, rel=1e-3)
    assert math.log(found.batch_size / found.low) == pytest.approx(1.6955 * error, rel=1e-3)
    assert found.log_sd == pytest.approx(error, rel=1e-3)


def test_a_sketch_wide_enough_is_exact() -> None:
    gradients = in_chunks(NOISY.gradients(1024, 13), 32)
    exact, found = measured(gradients, 32), sketched(gradients, 32, NOISY.features, 1)
    for name in ("batch_size", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-9)


def test_a_narrow_sketch_keeps_the_estimate_and_an_honest_interval() -> None:
    """3,000 entries in 512 numbers, as many samples as the noise scale: about 3 / sqrt(512) are added."""
    added = []
    for seed in range(30):
        gradients = 32**-0.5 + np.random.default_rng(seed).standard_normal((32, 3000))
        exact, found = measured(gradients, 8), sketched(gradients, 8, 512, seed)
        assert found.batch_size == pytest.approx(exact.batch_size, rel=1e-9)
        assert found.low <= found.batch_size <= found.high
        added.append(found.log_sd**2 - exact.log_sd**2)
    assert math.sqrt(float(np.mean(added))) == pytest.approx(3 / math.sqrt(512), rel=0.3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_an_outcome(bad: float) -> None:
    found = noise_scale(8, [1.0, 1.0, bad, 1.0], [1.0, 1.0, 1.0, 1.0])
    assert (found.valid, found.low, found.high) == (False, 0.0, math.inf)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_chunks_that_do_not_differ_say_nothing(value: float) -> None:
    found = noise_scale(8, [value] * 8, [8 * value] * 8)
    assert (found.valid, found.low, found.high) == (False, 0.0, math.inf)


@pytest.mark.parametrize(("norms", "products"), [([1.0] * 3, [1.0] * 3), ([1.0] * 8, [1.0] * 7)])
def test_too_few_chunks_are_refused(norms: Sequence[float], products: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="at least 4 chunks"):
        noise_scale(8, norms, products)


def scale(batch_size: float, spread: float = 1.5, samples: int = 1024) -> NoiseScale:
    return NoiseScale(
        batch_size=batch_size,
        low=batch_size / spread,
        high=batch_size * spread,
        chunks=32,
        chunk_size=samples // 32,
        samples=samples,
        valid=True,
    )


def lost(low: float) -> NoiseScale:
    return NoiseScale(
        batch_size=math.inf, low=low, high=math.inf, chunks=32, chunk_size=32, samples=1024, valid=False
    )


def test_samples_are_doubled_until_the_interval_is_narrow() -> None:
    assert samples_wanted(None, 10**6) == 1024
    assert samples_wanted(None, 300) == 300
    assert samples_wanted(scale(100, spread=1.9), 10**6) == 1024
    assert samples_wanted(scale(100, spread=2.1), 10**6) == 2048
    assert samples_wanted(scale(100, spread=2.1), 1500) == 1500
    assert samples_wanted(lost(50), 10**6) == 2048
    assert samples_wanted(scale(100, spread=9, samples=8192), 10**6) == 8192


def test_the_critical_batch_size_is_twice_the_geometric_mean() -> None:
    found = critical_batch_size([scale(50), scale(100), scale(200)])
    assert found.batch_size == pytest.approx(200)
    assert found.log_sd > math.log(2.3)
    reach = 1.6449 * found.log_sd
    assert math.log(found.high / 200) == pytest.approx(reach, rel=1e-3)
    assert math.log(200 / found.low) == pytest.approx(reach, rel=1e-3)
    steady = critical_batch_size([scale(100)] * 3)
    assert math.log(2.3) < steady.log_sd < found.log_sd


def test_a_measurement_without_signal_opens_the_interval() -> None:
    found = critical_batch_size([scale(100), lost(400)])
    assert found.batch_size == pytest.approx(200)
    assert found.high == math.inf
    assert found.low > 0


def test_without_any_valid_measurement_there_is_a_lower_bound() -> None:
    found = critical_batch_size([lost(400), lost(1000)])
    assert found.batch_size == found.high == found.log_sd == math.inf
    assert 400 < found.low < 1000
    assert critical_batch_size([]) == CriticalBatchSize(
        batch_size=math.inf, low=0.0, high=math.inf, log_sd=math.inf
    )

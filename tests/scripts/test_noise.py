"""The optimizer whose gradient noise limits the batch size."""

from __future__ import annotations

from autobatch.scripts.messages import GradientSums, NoiseSums
from autobatch.scripts.noise import limiting_chunks


def sums(signal: float, noise: float, count: int = 32) -> GradientSums:
    """Sums of gradients along one direction with `signal`, and each along one of its own with `noise`."""
    along = signal**2
    return GradientSums(
        squared_norms=[along + noise**2] * count,
        inner_products=[count * along + noise**2] * count,
        sum_squared_norm=count**2 * along + count * noise**2,
    )


def test_the_optimizer_with_the_smaller_noise_limits():
    points = [NoiseSums(ended=False, optimizers=[sums(1.0, 5.0), sums(1.0, 2.0)])] * 2
    number, chunks = limiting_chunks(points, chunk_size=16)
    assert number == 1
    assert len(chunks) == 2
    assert chunks[0].chunk_size == 16


def test_a_single_optimizer_is_the_first():
    number, chunks = limiting_chunks([NoiseSums(ended=False, optimizers=[sums(1.0, 3.0)])], chunk_size=8)
    assert (number, len(chunks)) == (0, 1)


def test_gradients_that_are_too_few_are_no_measurement():
    assert limiting_chunks([NoiseSums(ended=False, optimizers=[sums(1.0, 3.0, count=2)])], 8) == (0, ())
    assert limiting_chunks([], 8) == (0, ())

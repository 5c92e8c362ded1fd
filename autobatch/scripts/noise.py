"""Pure: the gradient noise of the optimizer that limits the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from autobatch.decision.constants import FEWEST_CHUNKS
from autobatch.decision.noise_scale import Chunks, noise_scale
from autobatch.scripts.messages import GradientSums, NoiseSums


def limiting_chunks(points: Sequence[NoiseSums], chunk_size: int) -> tuple[int, tuple[Chunks, ...]]:
    """The number of the optimizer with the smallest noise scale, and its sums at each point.

    Batches beyond it teach that optimizer nothing more. Points without enough gradients are left out.
    """
    count = min((len(point.optimizers) for point in points), default=0)
    by_optimizer = [
        _chunks([point.optimizers[number] for point in points], chunk_size) for number in range(count)
    ]
    if not by_optimizer:
        return 0, ()
    return min(enumerate(by_optimizer), key=lambda numbered: _last_scale(numbered[1]))


def _chunks(sums: Sequence[GradientSums], chunk_size: int) -> tuple[Chunks, ...]:
    return tuple(
        Chunks(
            chunk_size=chunk_size,
            squared_norms=tuple(measured.squared_norms),
            inner_products=tuple(measured.inner_products),
            sum_squared_norm=measured.sum_squared_norm,
        )
        for measured in sums
        if len(measured.squared_norms) >= FEWEST_CHUNKS
    )


def _last_scale(chunks: Sequence[Chunks]) -> float:
    """The noise scale of the last point that has one, in samples; infinite where none has."""
    scales = [
        noise_scale(c.chunk_size, c.squared_norms, c.inner_products, c.sum_squared_norm) for c in chunks
    ]
    return next((scale.batch_size for scale in reversed(scales) if scale.valid), inf)

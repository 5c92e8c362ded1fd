"""Sums over independent gradients at frozen weights: enough for the noise scale and its interval.

Beside the step's own memory they take one gradient buffer, a byte an entry for random signs, and `width`
numbers a gradient. These are a count sketch (Charikar et al. 2002) that estimates the inner products.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class GradientSums:
    """|g_k|^2 and (sketched) <sum g, g_k> of each gradient g_k, and the exact |sum g|^2."""

    def __init__(self, width: int, seed: int) -> None:
        self._width = width
        self._seed = seed
        self._total: dict[int, torch.Tensor] = {}
        self._signs: dict[int, torch.Tensor] = {}
        self._rows: list[torch.Tensor] = []
        self._norms: list[float] = []

    @property
    def count(self) -> int:
        return len(self._norms)

    def add(self, gradients: Iterable[torch.Tensor | None], scale: float = 1.0) -> None:
        """Count one gradient, given tensor by tensor in the same order each time, divided by `scale`."""
        row = torch.zeros(self._width)
        norm, start = 0.0, 0
        for place, gradient in enumerate(gradients):
            if gradient is None:
                continue
            dense = (gradient.to_dense() if gradient.is_sparse else gradient).detach().float() / scale
            norm += _squared_norm(dense)
            if place in self._total:
                self._total[place] += dense
            else:
                self._total[place] = dense.clone()
            flat = dense.flatten().cpu() * self._signs_of(place, dense.numel())
            padded = torch.nn.functional.pad(flat, (start, -(start + flat.numel()) % self._width))
            row += padded.view(-1, self._width).sum(0)
            start = (start + flat.numel()) % self._width
        self._norms.append(norm)
        self._rows.append(row)

    def _signs_of(self, place: int, count: int) -> torch.Tensor:
        """Random signs of one tensor, the same for all gradients. The script's random state stays."""
        if place not in self._signs:
            generator = torch.Generator().manual_seed(self._seed + place)
            self._signs[place] = torch.randint(2, (count,), generator=generator, dtype=torch.int8) * 2 - 1
        return self._signs[place]

    def result(self) -> dict[str, Any]:
        """The three sums, as `decision.noise_scale` takes them."""
        if not self._rows:
            return {"squared_norms": [], "inner_products": [], "sum_squared_norm": 0.0}
        sketch = torch.stack(self._rows)
        along = (sketch @ sketch.sum(0)).tolist()
        squares = sketch.square().sum(1).tolist()
        products = [a - s + n for a, s, n in zip(along, squares, self._norms)]  # noqa: B905 equal lengths
        total = sum(map(_squared_norm, self._total.values()))
        return {"squared_norms": self._norms, "inner_products": products, "sum_squared_norm": total}


def _squared_norm(tensor: torch.Tensor) -> float:
    # Apple's devices have no double precision.
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(tensor, dtype=dtype)) ** 2

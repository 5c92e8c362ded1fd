"""Random data sets of any size that take no memory: a sample is a row of a small table."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

ROWS = 64
SAMPLES = 1 << 20


class Repeated(Dataset[tuple[Tensor, Tensor]]):
    """`samples` pairs from tables of ROWS rows, over and over."""

    def __init__(self, inputs: Tensor, targets: Tensor, samples: int = SAMPLES) -> None:
        self._inputs, self._targets, self._samples = inputs, targets, samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._inputs[index % ROWS], self._targets[index % ROWS]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """A batch of the first samples."""
        rows = torch.arange(size) % ROWS
        return self._inputs[rows], self._targets[rows]


def images(edge: int, channels: int = 3, classes: int = 10) -> Repeated:
    generator = torch.Generator().manual_seed(0)
    return Repeated(
        torch.randn(ROWS, channels, edge, edge, generator=generator),
        torch.randint(classes, (ROWS,), generator=generator),
    )


def vectors(width: int, classes: int = 10) -> Repeated:
    generator = torch.Generator().manual_seed(0)
    return Repeated(
        torch.randn(ROWS, width, generator=generator), torch.randint(classes, (ROWS,), generator=generator)
    )


def codes(length: int, vocabulary: int) -> Repeated:
    """Sequences and, for each position, the next code."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(1, vocabulary, (ROWS, length + 1), generator=generator)
    return Repeated(drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous())

"""Data sets that the tests of samples share."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import (
    Dataset,
    IterableDataset,
)

INPUTS = torch.arange(40.0).reshape(20, 2)


TARGETS = torch.arange(20)


class Mapped(Dataset[tuple[torch.Tensor, int]]):
    """A map-style data set that breaks at one index."""

    def __init__(self, size: int = 20, broken: int | None = None) -> None:
        self.size = size
        self.broken = broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.broken:
            raise OSError(f"no file {index}.png")
        return torch.full((2,), float(index)), index


class Stream(IterableDataset[int]):
    def __init__(self, size: int, broken: int | None = None) -> None:
        self.size = size
        self.broken = broken

    def __iter__(self) -> Iterator[int]:
        for index in range(self.size):
            if index == self.broken:
                raise ValueError("bad shard")
            yield index


class Ragged(Dataset[torch.Tensor]):
    """Sample i is a row of i + 1 numbers; reading one draws a random number, as augmentations do."""

    def __init__(self, size: int = 20, broken: int | None = None) -> None:
        self.size = size
        self.broken = broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.rand(1), np.random.rand(1), random.random()
        if index == self.broken:
            raise OSError(f"no file {index}.png")
        return torch.full((index + 1,), float(index))


def lengths(rows: list[torch.Tensor]) -> list[int]:
    return [len(row) for row in rows]

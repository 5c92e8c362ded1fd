"""Batch normalisation over thirds of a batch: sizes 1 to 3 can't be trained, nor can 5 and 7."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.data import TensorDataset

SAMPLES = 20_000
FEATURES, WIDTH = 64, 2048

generator = torch.Generator().manual_seed(0)
dataset = TensorDataset(
    torch.randn(SAMPLES, FEATURES, generator=generator), torch.randint(10, (SAMPLES,), generator=generator)
)


class GhostBatchNorm(nn.Module):
    """BatchNorm1d applied to each third by itself; a third of one sample is an error."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.norm(third) for third in inputs.chunk(3)])


def build_model() -> nn.Module:
    """Vectors (N, 64) in, logits (N, 10) out."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(FEATURES, WIDTH), GhostBatchNorm(WIDTH), nn.ReLU(), nn.Linear(WIDTH, FEATURES)]
    return nn.Sequential(*layers, nn.Linear(FEATURES, 10))


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params)


loss_fn = nn.CrossEntropyLoss()

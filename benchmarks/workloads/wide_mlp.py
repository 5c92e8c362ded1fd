"""A wide MLP with Adam: most of its memory is parameters, gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.data import TensorDataset

SAMPLES = 20_000
INPUTS, WIDTH = 128, 16_384

generator = torch.Generator().manual_seed(0)
dataset = TensorDataset(
    torch.randn(SAMPLES, INPUTS, generator=generator), torch.randint(10, (SAMPLES,), generator=generator)
)


def build_model() -> nn.Module:
    """4.2 million parameters: vectors (N, 128) in, logits (N, 10) out."""
    return nn.Sequential(
        nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, INPUTS), nn.ReLU(), nn.Linear(INPUTS, 10)
    )


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params)


loss_fn = nn.CrossEntropyLoss()

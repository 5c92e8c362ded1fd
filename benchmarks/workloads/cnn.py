"""A small CNN on images of 48x48 pixels: activations decide its memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.data import TensorDataset

SAMPLES = 20_000

generator = torch.Generator().manual_seed(0)
dataset = TensorDataset(
    torch.randint(256, (SAMPLES, 1, 48, 48), dtype=torch.uint8, generator=generator),
    torch.randint(10, (SAMPLES,), generator=generator),
)


class Cnn(nn.Module):
    """Images uint8 (N, 1, 48, 48) in, logits (N, 10) out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images.float() / 255)
        return logits


def build_model() -> nn.Module:
    return Cnn()


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params)


loss_fn = nn.CrossEntropyLoss()

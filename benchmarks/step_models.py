"""Ten models of different kinds, with batches of any size, for the benchmarks of predicted memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "adamw": torch.optim.AdamW,
}
SIZES = (10, 32, 100)


@dataclass(frozen=True)
class Workload:
    build: Callable[[], nn.Module]
    inputs: Callable[[int], torch.Tensor]


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.relu(values + self.inner(values))


class Last(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = self.inner(values)[0][:, -1]
        return last


class Checkpointed(nn.Module):
    """Blocks whose activations are recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 64)) for _ in range(6)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            values = checkpoint(block, values, use_reentrant=False)
        return values


class SmallUNet(nn.Module):
    """A small U-Net: down and up again, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.out = nn.ConvTranspose2d(32, 3, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = torch.relu(self.down(images))
        up = self.up(torch.relu(self.deep(half)))
        image: torch.Tensor = self.out(torch.cat([half, up], 1))
        return image


def convolution(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )


def transformer(tokens: int, dropout: float) -> nn.Module:
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=dropout, batch_first=True)
    return nn.Sequential(
        nn.Embedding(tokens, 128),
        nn.TransformerEncoder(layer, 4, enable_nested_tensor=False),
        nn.Linear(128, tokens),
    )


def images(size: int) -> torch.Tensor:
    return torch.randn(size, 3, 32, 32)


def codes(size: int) -> torch.Tensor:
    return torch.randint(500, (size, 64))


WORKLOADS = {
    "mlp": Workload(
        lambda: nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Dropout(0.1), nn.Linear(2048, 10)),
        lambda size: torch.randn(size, 256),
    ),
    "cnn": Workload(
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.Flatten()
        ),
        images,
    ),
    "resnet": Workload(
        lambda: nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *(Residual(convolution(32)) for _ in range(4))),
        images,
    ),
    "group_norm": Workload(
        lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(8, 32), nn.GELU(), nn.Conv2d(32, 8, 3)),
        images,
    ),
    "depthwise": Workload(
        lambda: nn.Sequential(nn.Conv2d(3, 48, 1), nn.Conv2d(48, 48, 7, padding=3, groups=48), nn.SiLU()),
        images,
    ),
    "unet": Workload(SmallUNet, images),
    "transformer": Workload(lambda: transformer(500, 0.0), codes),
    "transformer_dropout": Workload(lambda: transformer(500, 0.1), codes),
    "checkpointed": Workload(Checkpointed, lambda size: torch.randn(size, 64)),
    "lstm": Workload(
        lambda: Last(nn.LSTM(32, 64, num_layers=2, batch_first=True)),
        lambda size: torch.randn(size, 24, 32),
    ),
}


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], None]:
    """A function that takes a training step on a batch."""

    def step(batch: torch.Tensor) -> None:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step

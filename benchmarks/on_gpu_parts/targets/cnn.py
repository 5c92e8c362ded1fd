"""A CNN whose images have their channels last."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from on_gpu_parts import device, samples
from torch import nn

device.prepare()
EDGE = 64 if device.is_gpu() else 16
dataset = samples.images(EDGE)
largest_samples = dataset.batch
loss_fn = nn.CrossEntropyLoss()


class ChannelsLast(nn.Module):
    """Images (N, 3, EDGE, EDGE) in, logits (N, 10) out; the layout changes inside."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return logits


def build_model() -> nn.Module:
    model = ChannelsLast()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params)

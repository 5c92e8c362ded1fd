"""Convolutions with batch normalization, which a single image of one pixel could not train."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from on_gpu_parts import device, samples
from torch import nn

device.prepare()
EDGE, CHANNELS = (64, 64) if device.is_gpu() else (16, 8)
dataset = samples.images(EDGE)
largest_samples = dataset.batch
loss_fn = nn.CrossEntropyLoss()


def build_model() -> nn.Module:
    """Images (N, 3, EDGE, EDGE) in, logits (N, 10) out."""
    layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1)]
    for _ in range(4):
        layers += [nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(CHANNELS), nn.Linear(CHANNELS, 10))
    return nn.Sequential(*layers, *pooled)


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)

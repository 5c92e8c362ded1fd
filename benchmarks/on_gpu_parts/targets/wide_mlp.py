"""A wide MLP with Adam: most of its memory is parameters, gradients and optimizer state."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from on_gpu_parts import device, samples
from torch import nn

device.prepare()
INPUTS, WIDTH = (1024, 65_536) if device.is_gpu() else (32, 4096)
dataset = samples.vectors(INPUTS)
largest_samples = dataset.batch
loss_fn = nn.CrossEntropyLoss()


def build_model() -> nn.Module:
    """Vectors (N, INPUTS) in, logits (N, 10) out."""
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params)

"""An LSTM of two layers, for which cuDNN reserves memory that no trace sees."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from on_gpu_parts import device, samples
from torch import nn

device.prepare()
LENGTH, WIDTH = (256, 256) if device.is_gpu() else (24, 16)
VOCABULARY = 128
dataset = samples.codes(LENGTH, VOCABULARY)
largest_samples = dataset.batch


class Recurrent(nn.Module):
    """Codes int64 (N, T) in, logits (N, T, VOCABULARY) out."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrence = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrence(self.codes(codes))
        logits: torch.Tensor = self.head(states)
        return logits


def build_model() -> nn.Module:
    return Recurrent()


def loss_fn(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params)

"""A short training of the n-gram model of tasks.py."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from on_gpu_parts import device
from torch import nn
from torch.utils.data import TensorDataset

from autobatch.examples import charlm

device.prepare()
batch_size = 32
epochs = device.scale().epochs
LEARNING_RATE = 1e-3
CONTEXT = 8
loss_fn = F.cross_entropy


class Ngram(nn.Module):
    """The next character from the CONTEXT before it: codes (N, CONTEXT) in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(charlm.VOCABULARY, 16)
        self.layers = nn.Sequential(
            nn.Linear(16 * CONTEXT, 128), nn.Tanh(), nn.Linear(128, charlm.VOCABULARY)
        )

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(self.characters(codes).flatten(1))
        return logits


def _ngrams(windows: charlm.Windows, samples: int) -> TensorDataset:
    codes = windows.codes.long().unfold(1, CONTEXT + 1, CONTEXT + 1).flatten(0, 1)[:samples]
    return TensorDataset(codes[:, :-1].contiguous(), codes[:, -1].contiguous())


dataset = _ngrams(charlm.build_dataset(), 4 * device.scale().training_samples)
val_dataset = _ngrams(charlm.build_val_dataset(), 2048)


def build_model() -> nn.Module:
    return Ngram()


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=LEARNING_RATE)

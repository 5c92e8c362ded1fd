"""A GRU over sequences of 8 to LONGEST codes, padded to the longest of their batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from on_gpu_parts import device, samples
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

device.prepare()
LONGEST, WIDTH = (256, 256) if device.is_gpu() else (24, 16)
SHORTEST, VOCABULARY = 8, 128
longest = samples.codes(LONGEST, VOCABULARY)
largest_samples = longest.batch


class Lengths(Dataset[torch.Tensor]):
    """Sequences int64 (T + 1,), T from SHORTEST to LONGEST."""

    def __len__(self) -> int:
        return len(longest)

    def __getitem__(self, index: int) -> torch.Tensor:
        inputs, targets = longest[index]
        length = SHORTEST + index * 7919 % (LONGEST - SHORTEST + 1)
        return torch.cat((inputs[:length], targets[length - 1 : length]))


class Recurrent(nn.Module):
    """Codes int64 (N, T) in, logits (N, T, VOCABULARY) out."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrence = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrence(self.codes(codes))
        logits: torch.Tensor = self.head(states)
        return logits


dataset = Lengths()


def collate_fn(sequences: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    padded = pad_sequence(sequences, batch_first=True)
    return padded[:, :-1], padded[:, 1:]


def build_model() -> nn.Module:
    return Recurrent()


def loss_fn(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params)

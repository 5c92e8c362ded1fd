"""A recurrent net over lines of source code, 8 to 160 characters, padded to the longest of their batch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

SHORTEST, LONGEST = 8, 160
SAMPLES = 20_000
PADDING = 0


class Lines(Dataset[torch.Tensor]):
    """Lines of Python's standard library as int64 codes, each of its own length."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        for path in sorted(Path(os.__file__).parent.glob("*.py")):
            lines = path.read_bytes().splitlines()
            self.lines += [line[:LONGEST] for line in lines if len(line) >= SHORTEST]
        del self.lines[SAMPLES:]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([min(code, 127) for code in self.lines[index]])


class Rnn(nn.Module):
    """Codes int64 (N, T) in, logits (N, T, 128) out."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.characters = nn.Embedding(128, width)
        self.recurrence = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 128)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrence(self.characters(codes))
        logits: torch.Tensor = self.head(states)
        return logits


dataset = Lines()


def collate_fn(lines: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    padded = pad_sequence(lines, batch_first=True, padding_value=PADDING)
    return padded[:, :-1], padded[:, 1:]


def build_model() -> nn.Module:
    return Rnn()


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params)


def loss_fn(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=PADDING)

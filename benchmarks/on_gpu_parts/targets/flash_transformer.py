"""A causal transformer in bfloat16, for which CUDA has flash attention."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from on_gpu_parts import device, samples
from torch import nn

device.prepare()
LENGTH, WIDTH, DEPTH = (512, 256, 6) if device.is_gpu() else (32, 32, 1)
VOCABULARY, HEADS = 256, 4
dataset = samples.codes(LENGTH, VOCABULARY)
largest_samples = dataset.batch


class Block(nn.Module):
    """Causal attention and an MLP, both added to their input (N, T, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixed, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mixed = self.mixed(self.first(hidden)).unflatten(2, (3, HEADS, WIDTH // HEADS))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.joined(attended.transpose(1, 2).flatten(2))
        mixed_up: torch.Tensor = self.mlp(self.second(hidden))
        return hidden + mixed_up


class Transformer(nn.Module):
    """Codes int64 (N, T) in, logits (N, T, VOCABULARY) out."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        with torch.autocast(codes.device.type, torch.bfloat16):
            logits: torch.Tensor = self.head(self.blocks(self.codes(codes) + self.positions))
        return logits


def build_model() -> nn.Module:
    return Transformer()


def loss_fn(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def make_optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params)

"""The trainings that evaluate autobatch: real data without a download, small enough for a CPU.

Each has a model, training and held-out samples, a loss, an optimizer, the batch size and learning rate that
its author would use, and a target for the held-out loss. The learning rate is the best at batch
size 32 of the oracle's grid (oracle.py). `ngram` is the long one, with a critical batch size far above 32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autobatch.examples import charlm, digits_cnn

Data = tuple[TensorDataset, TensorDataset]


class MakeOptimizer(Protocol):
    """An optimizer of parameters with a learning rate."""

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer: ...


CHARLM_HELD_OUT = 160  # windows of 96 characters: few enough to evaluate fast
NGRAM_CONTEXT = 8
NGRAM_CHARACTERS = 1_000_000
NGRAM_BLOCK = 1_000  # characters; each tenth block is held out
NGRAM_HELD_OUT = 8_192  # samples


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training and its target; `sizes` and `seeds` are the oracle's.

    `power`: the expected growth of the best learning rate with the batch size, where a search for it starts.
    """

    name: str
    build_model: Callable[[], nn.Module]
    build_data: Callable[[], Data]
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    make_optimizer: MakeOptimizer
    learning_rate: float
    power: float
    target: float
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    batch_size: int = 32


class NgramModel(nn.Module):
    """The next character from the NGRAM_CONTEXT before it (Bengio et al. 2003): codes in, logits out."""

    def __init__(self, embedding: int = 12, width: int = 64) -> None:
        super().__init__()
        self.characters = nn.Embedding(charlm.VOCABULARY, embedding)
        self.layers = nn.Sequential(
            nn.Linear(NGRAM_CONTEXT * embedding, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, charlm.VOCABULARY),
        )

    def forward(self, codes: Tensor) -> Tensor:
        logits: Tensor = self.layers(self.characters(codes.int()).flatten(1))
        return logits


def build_digits_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def build_regression_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32))


def digits_data() -> Data:
    """The digits as images, split as in autobatch's example."""
    return digits_cnn.build_dataset(), digits_cnn.build_val_dataset()


def shifted_digits_data() -> Data:
    """The same digits, each nine times: shifted by up to a pixel each way."""
    train, held_out = (_shifted(*part.tensors) for part in digits_data())
    return train, held_out


def _shifted(images: Tensor, digits: Tensor) -> TensorDataset:
    padded = F.pad(images, (1, 1, 1, 1))
    parts = [padded[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    return TensorDataset(torch.cat(parts), digits.repeat(9))


def halves_data() -> Data:
    """The upper 32 pixels of the shifted digits in, the lower 32 out."""
    train, held_out = (
        TensorDataset(*part.tensors[0].flatten(1).split(32, dim=1)) for part in shifted_digits_data()
    )
    return train, held_out


def charlm_data() -> Data:
    """The example's windows as tensors: each character and the next."""
    train, held_out = charlm.build_dataset().codes, charlm.build_val_dataset().codes[:CHARLM_HELD_OUT]
    return _next_characters(train.long()), _next_characters(held_out.long())


def _next_characters(codes: Tensor) -> TensorDataset:
    return TensorDataset(codes[:, :-1].contiguous(), codes[:, 1:].contiguous())


def ngram_data() -> Data:
    """Windows of Python's standard library and the character after each; whole blocks are held out."""
    text = bytearray(charlm._read_sources(Path(os.__file__).parent, NGRAM_CHARACTERS))
    codes = torch.frombuffer(text, dtype=torch.uint8)
    blocks = codes[: len(codes) // NGRAM_BLOCK * NGRAM_BLOCK].view(-1, NGRAM_BLOCK)
    held = torch.arange(len(blocks)) % 10 == 9
    return _ngrams(blocks[~held]), TensorDataset(*_ngrams(blocks[held])[:NGRAM_HELD_OUT])


def _ngrams(blocks: Tensor) -> TensorDataset:
    windows = blocks.unfold(1, NGRAM_CONTEXT + 1, 1).flatten(0, 1)
    return TensorDataset(windows[:, :-1].contiguous(), windows[:, -1].long())


def plain_sgd(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def momentum_sgd(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr)


TASKS = (
    Task(
        name="digits_mlp",
        build_model=build_digits_mlp,
        build_data=cache(shifted_digits_data),
        loss_fn=F.cross_entropy,
        make_optimizer=plain_sgd,
        learning_rate=0.4,
        power=1.0,
        target=0.12,
        sizes=(8, 16, 32, 64, 128, 256, 512, 1024, 2048),
        seeds=(0, 1, 2),
    ),
    Task(
        name="digits_cnn",
        build_model=digits_cnn.build_model,
        build_data=cache(digits_data),
        loss_fn=F.cross_entropy,
        make_optimizer=adamw,
        learning_rate=0.008,
        power=0.5,
        target=0.08,
        sizes=(8, 16, 32, 64, 128, 256, 512, 1024),
        seeds=(0, 1, 2),
    ),
    Task(
        name="digits_regression",
        build_model=build_regression_mlp,
        build_data=cache(halves_data),
        loss_fn=F.mse_loss,
        make_optimizer=momentum_sgd,
        learning_rate=0.8,
        power=1.0,
        target=0.046,
        sizes=(8, 16, 32, 64, 128, 256, 512, 1024, 2048),
        seeds=(0, 1, 2),
    ),
    Task(
        name="charlm",
        build_model=charlm.build_model,
        build_data=cache(charlm_data),
        loss_fn=charlm.loss_fn,
        make_optimizer=adamw,
        learning_rate=0.016,
        power=0.5,
        target=2.2,
        sizes=(8, 16, 32, 64, 128, 256),
        seeds=(0, 1),
    ),
    Task(
        name="ngram",
        build_model=NgramModel,
        build_data=cache(ngram_data),
        loss_fn=F.cross_entropy,
        make_optimizer=momentum_sgd,
        learning_rate=0.005,
        power=1.0,
        target=1.89,
        sizes=(32, 64, 128, 256, 512, 1024, 2048, 4096),
        seeds=(0, 1),
    ),
)

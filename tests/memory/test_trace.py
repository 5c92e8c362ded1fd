"""Traced steps predict the memory of real steps, at sizes that were never traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from autobatch.decision.memory_forecast import live_bytes
from autobatch.memory.storage_log import align, lines_of, peak_bytes
from autobatch.memory.trace import trace_step
from autobatch.records.trial import MemoryLine

FLOAT = 4


class Attention(nn.Module):
    """Quadratic in the length, linear in the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1)
        self.head = nn.Linear(32, 10)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embedding(codes)).mean(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(64, 64, bias=False)
        self.out = nn.Linear(64, 64, bias=False)
        self.out.weight = self.into.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(self.into(inputs).relu())


class Checkpointed(nn.Module):
    """Four wide blocks whose activations are computed again in the backward pass, or are kept."""

    def __init__(self, *, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.into = nn.Linear(16, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 32))
            for _ in range(4)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.into(inputs)
        for block in self.blocks:
            if self.reentrant is None:
                hidden = block(hidden)
            else:
                hidden = checkpoint(block, hidden, use_reentrant=self.reentrant)
        return hidden


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], torch.Tensor]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)),
        lambda size: torch.randn(size, 64),
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        ),
        lambda size: torch.randn(size, 3, 16, 16),
    ),
    "attention": (Attention, lambda size: torch.randint(50, (size, 24))),
    "recurrent": (
        lambda: nn.Sequential(nn.Embedding(50, 16), nn.GRU(16, 16, batch_first=True)),
        lambda size: torch.randint(50, (size, 12)),
    ),
    "tied": (Tied, lambda size: torch.randn(size, 64)),
    "kept": (lambda: Checkpointed(reentrant=None), lambda size: torch.randn(size, 16)),
    "reentrant": (lambda: Checkpointed(reentrant=True), lambda size: torch.randn(size, 16)),
    "checkpointed": (lambda: Checkpointed(reentrant=False), lambda size: torch.randn(size, 16)),
}


def log_of(name: str, size: int, *, fake: bool, optimizer: type = torch.optim.AdamW) -> Any:
    build, inputs = MODELS[name]
    model = build()
    made = optimizer(model.parameters(), lr=0.01)

    def step(batch: torch.Tensor) -> None:
        output = model(batch)
        (output[0] if isinstance(output, tuple) else output).square().mean().backward()
        made.step()
        made.zero_grad(set_to_none=True)

    return trace_step(model, [made], inputs(size), step, fake=fake).events


def lines_between(first: Any, first_size: int, second: Any, second_size: int) -> tuple[MemoryLine, ...]:
    """The peak at any size, from the logs at two."""
    lifetimes = align(first, first_size, second, second_size)
    assert lifetimes is not None
    return lines_of(lifetimes)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", MODELS)
def test_two_small_traces_give_the_peak_of_a_large_one(name: str, optimizer: type) -> None:
    """OpenNMT/OpenNMT-py 570; deepfakes/faceswap-playground 274: parameters alone don't tell the memory."""
    small = [log_of(name, size, fake=False, optimizer=optimizer) for size in (4, 8)]
    lines = lines_between(small[0], 4, small[1], 8)
    for size in (3, 100, 700):
        real = peak_bytes(log_of(name, size, fake=False, optimizer=optimizer))
        assert live_bytes(lines, size) == pytest.approx(real, rel=0.001)


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention", "tied", "reentrant", "checkpointed"])
def test_fake_tensors_give_the_same_log_as_real_ones(name: str) -> None:
    logs = [log_of(name, size, fake=True) for size in (4, 8)]
    lines = lines_between(logs[0], 4, logs[1], 8)
    assert live_bytes(lines, 64) == pytest.approx(peak_bytes(log_of(name, 64, fake=False)), rel=0.01)


def test_the_peak_of_a_linear_layer_is_what_arithmetic_says() -> None:
    """Weights, gradients and AdamW's two moments; inputs, outputs and their gradients of B samples."""
    weights = (64 * 256 + 256 + 256 * 10 + 10) * FLOAT
    small = [log_of("mlp", size, fake=False) for size in (4, 8)]
    lines = lines_between(small[0], 4, small[1], 8)
    assert 4 * weights <= live_bytes(lines, 1) <= 6 * weights
    assert lines[-1].sample_bytes >= (64 + 2 * 256 + 10) * FLOAT


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("name", ["reentrant", "checkpointed"])
def test_a_trace_sees_what_checkpointing_saves(name: str, fake: bool) -> None:
    slopes = {}
    for variant in (name, "kept"):
        logs = [log_of(variant, size, fake=fake) for size in (4, 8)]
        lines = lines_between(logs[0], 4, logs[1], 8)
        slopes[variant] = lines[-1].sample_bytes
    assert slopes[name] < 0.6 * slopes["kept"]


def test_tied_weights_are_counted_once() -> None:
    (birth, *_) = (event for event in log_of("tied", 4, fake=True) if getattr(event, "size_bytes", 0) > 8192)
    assert birth.size_bytes == 64 * 64 * FLOAT
    parameters = [
        e for e in log_of("tied", 4, fake=True)[:2] if getattr(e, "size_bytes", 0) == birth.size_bytes
    ]
    assert len(parameters) == 1


def test_a_step_whose_path_depends_on_its_data_is_traced_on_real_tensors_only() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layer(inputs[inputs[:, 0] > -100])

    MODELS["masked"] = (Masked, lambda size: torch.randn(size, 8))
    try:
        assert peak_bytes(log_of("masked", 4, fake=False)) > 0
        with pytest.raises(Exception, match=r"data-dependent|nonzero|Dynamic"):
            log_of("masked", 4, fake=True)
    finally:
        del MODELS["masked"]

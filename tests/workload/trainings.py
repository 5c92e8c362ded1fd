"""Trainers of small models that the tests of loops share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


CLASSES = torch.arange(16) % 3


FLOATS = INPUTS.sum(dim=1)


def trainer(model: Any, dataset: Any, **parts: Any) -> Trainer:
    found = Parts(model=model, dataset=dataset, **parts)
    samples = open_samples(dataset, found.collate_fn)
    return Trainer(found, samples, None, "cpu")


def linear(outputs: int = 3) -> nn.Module:
    return nn.Linear(4, outputs)


def learns(made: Trainer, steps: int = 30) -> bool:
    """True if the loss of one batch falls under repeated steps."""
    batch = made.load(8, 0)
    first = made.step(batch)
    for _ in range(steps):
        last = made.step(batch)
    assert first is not None
    assert last is not None
    assert made.optimizer_steps == steps + 1
    made.evaluate(batch)
    assert made.model.training
    return float(last) < float(first)

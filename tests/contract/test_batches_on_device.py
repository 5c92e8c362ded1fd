"""Batches, losses and evaluations on a device that is no CPU: in a real worker, on the tests' device."""

from __future__ import annotations

from pathlib import Path

import pytest

from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from tests.accelerator import built_library, compiler, model_preamble

pytestmark = pytest.mark.skipif(compiler() is None, reason="the test device needs a C++ compiler")

# Class weights in a module, batches as dataclasses, and losses in training mode only.
MODEL = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Pictures:
    pixels: torch.Tensor
    labels: list

def collate_fn(samples):
    return Pictures(torch.stack([x for x, _ in samples]), [y for _, y in samples])

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))
        self.loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, batch):
        scores = self.body(batch.pixels)
        return self.loss(scores, torch.stack(batch.labels)) if self.training else [scores]

def build_model():
    return Net()

def training_step(model, batch):
    return model(batch)

dataset = [(torch.randn(8), torch.tensor(i % 3)) for i in range(64)]
"""
WEIGHTED = """
import functools
import torch
from torch import nn

def build_model():
    return nn.Linear(8, 3)

weight = torch.tensor([1.0, 2.0, 3.0])
loss_fn = LOSS
dataset = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.arange(64) % 3)
"""


@pytest.mark.parametrize(
    "source",
    [
        MODEL,
        WEIGHTED.replace("LOSS", "nn.CrossEntropyLoss(weight=weight)"),
        WEIGHTED.replace("LOSS", "functools.partial(nn.functional.cross_entropy, weight=weight)"),
    ],
    ids=["detector", "module", "partial"],
)
@pytest.mark.slow
def test_a_step_and_its_evaluation_run_on_the_device(source: str, tmp_path: Path) -> None:
    built_library()
    file = tmp_path / "net.py"
    file.write_text(model_preamble(64 << 20) + source)
    engine = LocalEngine(Recipe(target=str(file)), Limits(), "testdev", {}, print)
    try:
        engine.open()
        tried = engine.try_out(8, 60.0, 3)
        traced = engine.trace_memory()
    finally:
        engine.close()
    assert tried.outcome is Outcome.OK, tried.detail
    assert tried.optimizer_steps == 3
    assert traced.lines, traced.detail

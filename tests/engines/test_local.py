"""The engine of a single worker: when the check needs a fresh session."""

from __future__ import annotations

import contextlib
from pathlib import Path

from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.records.check import LossKind
from autobatch.records.limits import Limits

# A step of the user counts its calls where nobody can put the count back.
STEP = """
import os
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import TensorDataset

with (Path(__file__).parent / "sessions").open("a") as file:
    file.write("one\\n")

calls = []

def build_model():
    return nn.Linear(8, 4)

def step(model, batch, optimizer):
    calls.append(None)
    inputs, targets = batch
    loss = nn.functional.cross_entropy(model(inputs), targets) / len(calls)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss

inputs = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
dataset = TensorDataset(inputs, inputs[:, :4].argmax(1))
"""


def test_a_step_of_the_user_gets_a_fresh_session_for_the_check(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(STEP, encoding="utf-8")
    command = messages.MeasureLossKind(half_size=4, most_samples=8, seconds=30.0, seed=0)
    engine = LocalEngine(messages.Recipe(target=str(file)), Limits(), "cpu", {}, print)
    with contextlib.closing(engine):
        tried = engine.try_out(8, 60.0, messages.FULL_STEPS)
        assert tried.restartable is False, tried.detail
        assert isinstance(engine.measure_loss_kind(command).kind, LossKind)
    assert len((tmp_path / "sessions").read_text(encoding="utf-8").splitlines()) == 2

"""A target that trains while it is imported is stopped at its first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from autobatch.records.errors import TargetError
from autobatch.workload.import_guard import training_refused
from autobatch.workload.target import load_parts
from tests.workload.target_files import HEAD

TRAINS = """
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(1_000_000):
    model(torch.ones(4, 2)).mean().backward()
    optimizer.step()
"""


def test_the_first_step_ends_the_import(folder: Path) -> None:
    (folder / "trains_at_once.py").write_text(HEAD + "import torch\n" + TRAINS)
    with pytest.raises(TargetError) as raised:
        load_parts("trains_at_once.py", ["--epochs", "3"])
    assert raised.value.code == "trains_on_import"
    assert raised.value.facts == ("`SGD.step` was called",)
    hint = "measure it as it is: `autobatch probe -- python trains_at_once.py --epochs 3`"
    assert raised.value.hint == hint


def test_training_goes_on_after_the_import() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with training_refused("python model.py"):
        # A gradient alone is no training.
        weight.sum().backward()
        with pytest.raises(TargetError):
            optimizer.step()
    optimizer.step()
    assert weight.tolist() == [0.5, 0.5]

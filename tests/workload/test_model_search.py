"""The model that is meant in a target file, and the errors where none or several can be."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tests.workload.target_files import model_of, refusal


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("model = nn.Linear(2, 3)", "net_file.py"),
        ("def build_model():\n    return nn.Linear(2, 3)\nmodel = nn.Linear(1, 1)", "net_file.py"),
        ("def create_model():\n    return nn.Linear(2, 3)", "net_file.py"),
        ("anything = nn.Linear(2, 3)", "net_file.py"),
        ("net = same = nn.Linear(2, 3)", "net_file.py"),
        ("net = nn.Linear(2, 3)\nloss_fn = nn.Sequential()", "net_file.py"),
        ("net = nn.Linear(2, 3)\ncriterion = nn.CrossEntropyLoss()", "net_file.py"),
        ("net = nn.Linear(2, 3)\n_spare = nn.Linear(9, 9)", "net_file.py"),
        (
            "class Net(nn.Linear):\n    def __init__(self, width=3):\n        super().__init__(2, width)",
            "net_file.py",
        ),
        ("a, b = nn.Linear(1, 1), nn.Linear(2, 3)", "net_file.py:b"),
        ("def tiny():\n    return nn.Linear(2, 3)", "net_file.py:tiny"),
        ("class Nets:\n    small = nn.Linear(2, 3)", "net_file.py:Nets.small"),
        ("model = nn.Linear(2, 3)", "net_file"),
        ("a, b = nn.Linear(1, 1), nn.Linear(2, 3)", "net_file:b"),
    ],
)
def test_the_model_that_is_meant(source: str, target: str, folder: Path) -> None:
    found = model_of(folder, source, target)
    assert isinstance(found, nn.Linear)
    assert (found.in_features, found.out_features) == (2, 3)


def test_hints_name_what_can_be_typed(folder: Path) -> None:
    error = refusal(folder, "a, b = nn.Linear(1, 1), nn.Linear(2, 3)")
    assert error.facts == ("models there: `a`, `b`",)
    assert error.hint == "`autobatch probe net_file.py:a` or `autobatch probe net_file.py:b`"

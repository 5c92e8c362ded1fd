"""The framework of a model, by its classes."""

from __future__ import annotations

import pytest
from torch import nn

from autobatch.workload.framework import framework_of


def test_plain_pytorch_has_no_framework() -> None:
    assert framework_of(nn.Linear(1, 1)) == ""
    assert framework_of(None) == ""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.src.models.model", "keras"),
        ("lightning.pytorch.core.module", "lightning"),
        ("pytorch_lightning.core.module", "lightning"),
        ("transformers.modeling_utils", "transformers"),
        ("transformers_of_mine", ""),
    ],
)
def test_a_subclass_of_the_user_belongs_to_its_framework(module: str, name: str) -> None:
    base = type("Base", (nn.Module,), {"__module__": module})
    mine = type("Mine", (base,), {"__module__": "model_file"})
    assert framework_of(mine()) == name

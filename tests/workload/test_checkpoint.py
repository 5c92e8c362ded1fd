"""Weights from a file replace those of the model; a file of another model or of no model is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autobatch.records.errors import TargetError
from autobatch.workload.checkpoint import with_weights
from autobatch.workload.parts import Parts


def trained() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(7)
    return model


def saved(folder: Path, content: Any) -> str:
    path = folder / "weights.pt"
    torch.save(content, path)
    return str(path)


def fresh() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {}},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["alone", "Lightning", "a loop", "another loop", "DistributedDataParallel", "compiled"],
)
def test_every_usual_form_is_read(tmp_path: Path, pack: Any) -> None:
    path = saved(tmp_path, pack(trained().state_dict()))
    made = with_weights(Parts(model=fresh), path).make_model()
    assert all((tensor == 7).all() for tensor in made.state_dict().values())


def test_a_model_that_exists_keeps_its_parameters(tmp_path: Path) -> None:
    """An optimizer may hold them."""
    model = fresh()
    first = model[0].weight
    parts = with_weights(Parts(model=model), saved(tmp_path, trained().state_dict()))
    assert parts.ready_model is model
    assert model[0].weight is first
    assert (first == 7).all()
    assert parts.remarks() == ("weights from `weights.pt`",)


class Whole(nn.Linear):
    """A module that is pickled with its class, which may run code when it is read."""


@pytest.mark.parametrize(
    ("content", "message", "fact"),
    [
        ({"epoch": 3}, "holds no weights", "`model_state_dict`"),
        ([1, 2], "holds no weights", "looked for tensors"),
        (Whole(3, 4), "can't be read", "Weights only load failed"),
        (nn.Linear(3, 4).state_dict(), "is of another model", "it lacks `0.weight`, `0.bias`, `1.weight`"),
        (
            {**fresh().state_dict(), "head.weight": torch.ones(1)},
            "is of another model",
            "it also has `head.weight`",
        ),
        (
            {**fresh().state_dict(), "0.weight": torch.ones(9, 9)},
            "is of another model",
            "size mismatch for 0.weight",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(tmp_path: Path, content: Any, message: str, fact: str) -> None:
    with pytest.raises(TargetError) as raised:
        with_weights(Parts(model=fresh), saved(tmp_path, content)).make_model()
    assert raised.value.code == "bad_checkpoint"
    assert message in raised.value.message
    assert fact in " ".join(raised.value.facts)


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_text("no checkpoint")
    with pytest.raises(TargetError, match="can't be read"):
        with_weights(Parts(model=fresh), str(tmp_path / "weights.pt"))

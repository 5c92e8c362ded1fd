"""The loss of a batch: given, inferred, or refused."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from autobatch.records.errors import TargetError
from autobatch.workload.loss_choice import following, move_loss
from tests.workload.trainings import CLASSES, FLOATS, INPUTS, learns, linear, trainer

Pair = namedtuple("Pair", "inputs target")


def refusal(model: Any, dataset: Any, **parts: Any) -> TargetError:
    """The error of the first step, or of what comes before it."""

    def first_step() -> None:
        made = trainer(model, dataset, **parts)
        made.step(made.load(4, 0))

    with pytest.raises(TargetError) as caught:
        first_step()
    return caught.value


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(torch.cat([left, right], dim=1))
        return found


class Recurrent(nn.Module):
    """Takes a packed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, 8), nn.Linear(8, 3)

    def forward(self, packed: PackedSequence) -> torch.Tensor:
        last: torch.Tensor = self.cell(packed)[1][0]
        logits: torch.Tensor = self.head(last)
        return logits


def packed(rows: list[Any]) -> tuple[PackedSequence, torch.Tensor]:
    inputs = pack_sequence([row for row, _ in rows], enforce_sorted=False)
    return inputs, torch.stack([label for _, label in rows])


class OwnLoss(nn.Module):
    """The convention of Hugging Face: labels go in, an output with a loss comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return (
            {"logits": logits}
            if labels is None
            else {"logits": logits, "loss": F.cross_entropy(logits, labels)}
        )


@pytest.mark.parametrize(
    ("model", "dataset", "loss"),
    [
        (linear(), (INPUTS, CLASSES), "cross-entropy"),
        (linear(), (INPUTS, CLASSES[:, None]), "cross-entropy"),
        (linear(1), (INPUTS, FLOATS), "mean squared error"),
        (linear(1), (INPUTS, FLOATS[:, None]), "mean squared error"),
        (linear(1), (INPUTS, FLOATS > 0), "binary cross-entropy"),
        (Named(), (INPUTS, INPUTS, CLASSES), "cross-entropy"),
        (
            Named(),
            [{"left": x, "right": x, "label": y} for x, y in zip(INPUTS, CLASSES, strict=True)],
            "cross-entropy",
        ),
        (OwnLoss(), [{"x": x, "labels": y} for x, y in zip(INPUTS, CLASSES, strict=True)], "the model's own"),
        (linear(), [Pair(x, y) for x, y in zip(INPUTS, CLASSES, strict=True)], "cross-entropy"),
        (
            nn.Sequential(nn.Embedding(3, 8), nn.Linear(8, 3)),
            [(CLASSES[:5], CLASSES[1:6]) for _ in range(16)],
            "cross-entropy",
        ),
    ],
)
def test_losses_that_are_inferred(model: nn.Module, dataset: Any, loss: str) -> None:
    torch.manual_seed(0)
    made = trainer(model, dataset)
    workload = made.describe()
    assert workload.loss == loss
    assert workload.optimizer == "AdamW"
    assert any("AdamW" in guess for guess in workload.inferred)
    assert learns(made)


@pytest.mark.parametrize(
    ("model", "dataset", "parts", "code", "fact"),
    [
        (linear(), INPUTS, {}, "no_loss", "the batch: float32[1, 4]"),
        (linear(), [(INPUTS[0], "cat")] * 4, {}, "no_loss", ""),
        (linear(5), (INPUTS, INPUTS), {}, "bad_loss", "output: shape (4, 5), torch.float32"),
        (linear(1), (INPUTS, INPUTS.long()), {}, "bad_loss", "output: shape (4, 1), torch.float32"),
        (
            linear(),
            (INPUTS, CLASSES),
            {"loss_fn": nn.CrossEntropyLoss(reduction="none")},
            "bad_loss",
            "a tensor",
        ),
        (linear(), (INPUTS, CLASSES), {"training_step": lambda model, batch: None}, "bad_loss", "NoneType"),
        (nn.ReLU(), (INPUTS, INPUTS), {}, "nothing_to_train", ""),
        (linear(), (INPUTS, CLASSES), {"optimizer": "adam"}, "bad_optimizer", ""),
        (
            linear(),
            (INPUTS, CLASSES),
            {"optimizer": torch.optim.SGD(linear().parameters())},
            "bad_optimizer",
            "import",
        ),
        (
            OwnLoss(),
            [{"x": INPUTS[0], "labels": None}] * 4,
            {"collate_fn": lambda all: all[0]},
            "no_loss",
            "logits",
        ),
    ],
)
def test_refusals(model: nn.Module, dataset: Any, parts: dict[str, Any], code: str, fact: str) -> None:
    error = refusal(model, dataset, **parts)
    assert error.code == code
    assert any(fact in one for one in error.facts) or not fact
    assert error.hint


def test_the_weights_of_a_loss_go_to_the_device() -> None:
    """biotrainer 67; pytorch/pytorch 122757: the class weights of a loss stay on the CPU."""
    module = nn.CrossEntropyLoss(weight=torch.ones(3))
    move_loss(module, "meta")
    assert module.weight is not None
    assert module.weight.device.type == "meta"
    move_loss(F.mse_loss, "meta")


def test_the_tensors_of_a_partial_loss_follow_the_output() -> None:
    weights = torch.tensor([1.0, 2.0, 4.0])
    loss = following(partial(F.cross_entropy, weight=weights, label_smoothing=0.1))
    outputs = torch.zeros(4, 3), CLASSES[:4]
    assert loss(*outputs) == F.cross_entropy(*outputs, weight=weights, label_smoothing=0.1)
    assert loss(*(part.to("meta") for part in outputs)).device.type == "meta"
    assert following(F.mse_loss) is F.mse_loss


class WithLoss(nn.Module):
    """Takes labels, and returns (loss, logits), as older models do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(x)
        return F.cross_entropy(logits, labels), logits


def test_a_model_that_returns_its_loss_first_trains_by_it() -> None:
    made = trainer(WithLoss(), [{"x": x, "labels": y} for x, y in zip(INPUTS, CLASSES, strict=True)])
    assert made.describe().loss == "the model's own"
    assert learns(made)


@pytest.mark.parametrize("has_step", [True, False])
def test_a_model_without_forward_needs_a_training_step(has_step: bool) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3)

    class WithStep(Holder):
        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return F.cross_entropy(self.body(batch[0]), batch[1])

    model = WithStep() if has_step else Holder()
    error = refusal(model, (INPUTS, CLASSES))
    assert error.code == "no_forward"
    assert ("model.training_step(batch, 0)" in error.hint) is has_step


def test_a_packed_sequence_is_a_single_input() -> None:
    """pytorch/pytorch 7221; pytorch_geometric 3066: it is a tuple, whose parts mean nothing to a model."""
    rows = [(INPUTS[: 1 + place % 5], label) for place, label in enumerate(CLASSES)]
    made = trainer(Recurrent(), rows, collate_fn=packed)
    assert made.describe().loss == "cross-entropy"
    assert learns(made)

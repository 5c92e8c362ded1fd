"""Losses that are inferred from a target, and the losses that models return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from autobatch.records.errors import TargetError
from autobatch.workload.loss import NoLossError, infer, loss_of_output, scalar, tensor_of, widened

X = torch.arange(12.0).reshape(4, 3)
CLASSES = torch.tensor([0, 2, 1, 0])


def inferred(output: Any, target: torch.Tensor) -> float:
    _, loss, _ = infer(target)
    return float(loss(output, target))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (CLASSES, "cross-entropy"),
        (CLASSES.to(torch.uint8), "cross-entropy"),
        (CLASSES > 0, "binary cross-entropy"),
        (X[:, 0], "mean squared error"),
        (X[:, 0].half(), "mean squared error"),
    ],
)
def test_the_dtype_of_the_target_decides(target: torch.Tensor, name: str) -> None:
    assert infer(target)[0] == name


def test_classes_of_a_sequence_lie_in_the_last_dimension() -> None:
    logits, tokens = X[:, None].expand(4, 5, 3), CLASSES[:, None].expand(4, 5)
    assert inferred(logits, tokens) == pytest.approx(float(F.cross_entropy(X, CLASSES)))


def test_classes_of_an_image_lie_in_dimension_1() -> None:
    logits, pixels = X[:, :, None].expand(4, 3, 6), CLASSES[:, None].expand(4, 6)
    assert inferred(logits, pixels) == pytest.approx(float(F.cross_entropy(X, CLASSES)))


def test_a_last_dimension_of_one_is_not_broadcast() -> None:
    output, target = X[:, :1], X[:, 0] + 1
    assert inferred(output, target) == inferred(output[:, 0], target[:, None]) == 1.0


def test_squares_of_half_precision_do_not_overflow() -> None:
    output = torch.full((4,), 1000.0, dtype=torch.float16)
    assert inferred(output, torch.zeros(4)) == pytest.approx(1e6)
    assert widened(output).dtype == torch.float32
    assert widened(X) is X


@pytest.mark.parametrize(
    ("output", "target", "code"),
    [
        (X, CLASSES[:3], "bad_loss"),
        (X, X[:, :2], "bad_loss"),
        ({"logits": X}, CLASSES, "no_loss"),
        (X[:, 0], CLASSES, "bad_loss"),
    ],
)
def test_an_output_that_does_not_match(output: Any, target: torch.Tensor, code: str) -> None:
    with pytest.raises(TargetError) as caught:
        inferred(output, target)
    assert caught.value.code == code


def test_a_target_that_is_no_tensor() -> None:
    with pytest.raises(TargetError, match="a target that is a str"):
        infer("cat")


@pytest.mark.parametrize("output", [{"loss": X[0, 0], "logits": X}, SimpleNamespace(loss=X[0, 0], logits=X)])
def test_outputs_of_hugging_face(output: Any) -> None:
    assert torch.equal(loss_of_output(output), X[0, 0])
    assert tensor_of(output) is X


def test_an_output_without_a_loss() -> None:
    assert loss_of_output(X) is X
    with pytest.raises(TargetError, match="returned no loss"):
        loss_of_output({"logits": X})


def test_a_loss_is_one_number() -> None:
    assert scalar(X[:1, 0]).numel() == 1
    for bad in (X, None, 3.0):
        with pytest.raises(TargetError, match="not one number"):
            scalar(bad)


@pytest.mark.parametrize(
    ("loss", "word"),
    [
        (X, "mean over the batch"),
        (None, "--min-batch"),
        (3.0, ".item()"),
        ({"box": X[0, 0]}, "sum of its values"),
        ((X[0, 0], X), "without the other outputs"),
    ],
)
def test_the_hint_leads_from_the_object_to_a_loss(loss: object, word: str) -> None:
    with pytest.raises(TargetError) as caught:
        scalar(loss)
    assert word in caught.value.hint
    assert isinstance(caught.value, NoLossError) == (loss is None)
    assert ("the loss is None" in caught.value.message) == (loss is None)


def test_a_loss_comes_first_in_a_tuple() -> None:
    assert float(loss_of_output((X[1, 2], X))) == float(X[1, 2])
    with pytest.raises(TargetError):
        scalar(loss_of_output((X, X)))

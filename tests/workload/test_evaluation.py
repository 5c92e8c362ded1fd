"""Losses of batches that are not trained on: the mode in which a model gives one, and the state it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autobatch.workload.evaluation import Evaluation
from tests.workload.trainings import CLASSES, INPUTS, trainer


class Detector(nn.Module):
    """As torchvision's: losses in training mode, predictions in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

    def forward(self, inputs: list[torch.Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        scores = self.body(torch.stack(inputs))
        if not self.training:
            return [{"scores": row} for row in scores]
        assert targets is not None
        labels = torch.stack([target["label"] for target in targets])
        return {"classes": nn.functional.cross_entropy(scores, labels)}


class Slope(nn.Module):
    """The loss is a gradient with respect to the inputs, as in physics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)

    def loss(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.body(inputs).square().sum(), inputs, create_graph=True)
        return slope.square().mean()


def detections() -> Any:
    samples = [(x, {"label": y}) for x, y in zip(INPUTS, CLASSES, strict=True)]
    return trainer(
        Detector(),
        samples,
        collate_fn=lambda some: ([x for x, _ in some], [y for _, y in some]),
        training_step=lambda model, batch: sum(model(*batch).values()),
    )


def test_a_detector_is_evaluated_in_training_mode_and_left_unchanged() -> None:
    """pytorch/vision 1574, 1350; lightning-flash 636; rf-detr 814."""
    made = detections()
    batch = made.load(8, 0)
    made.step(batch)
    assert made.evaluation_note == ""
    buffers = {name: buffer.clone() for name, buffer in made.model.named_buffers()}
    weights = {name: weight.clone() for name, weight in made.model.named_parameters()}
    before = torch.get_rng_state()
    first = made.evaluate(batch)
    assert made.evaluation_note == "in training mode"
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(buffers[name], buffer) for name, buffer in made.model.named_buffers())
    assert all(torch.equal(weights[name], weight) for name, weight in made.model.named_parameters())
    assert made.model.training
    # Dropout draws the same again, so that two trainings can be compared.
    torch.rand(7)
    assert made.evaluate(batch) == first
    assert not first.requires_grad


def test_a_loss_of_gradients_is_evaluated_in_evaluation_mode() -> None:
    made = trainer(Slope(), (INPUTS,), training_step=lambda model, batch: model.loss(batch[0]))
    loss = made.evaluate(made.load(4, 0))
    assert loss is not None
    assert not loss.requires_grad
    assert made.evaluation_note == ""


def test_parts_that_stay_out_of_training_stay_out() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[0].eval()
    modes = []
    Evaluation().loss(model, lambda: torch.tensor(float(modes.append(model[1].training) or 0)), "cpu")
    assert modes == [False]
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


def test_without_a_loss_in_any_mode_the_error_is_that_of_evaluation_mode() -> None:
    model = nn.Linear(2, 2)

    def compute() -> torch.Tensor:
        raise ValueError(f"training: {model.training}")

    with pytest.raises(ValueError, match="training: False"):
        Evaluation().loss(model, compute, "cpu")
    assert model.training


def test_running_out_of_memory_is_no_reason_for_another_mode() -> None:
    tries = []

    def compute() -> torch.Tensor:
        tries.append(1)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    evaluation = Evaluation()
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        evaluation.loss(nn.Linear(2, 2), compute, "cpu")
    assert len(tries) == 1

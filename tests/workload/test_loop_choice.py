"""Each kind of target gets its loop. Compiled Keras models are tested in tests/integrations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autobatch.records.errors import TargetError
from autobatch.records.limits import Precision
from autobatch.workload import loop_choice
from autobatch.workload.dataset import open_samples
from autobatch.workload.loops.loss_loop import LossLoop
from autobatch.workload.loops.step_loop import StepLoop
from autobatch.workload.parts import Parts
from autobatch.workload.precision import Arithmetic
from autobatch.workload.training_loop import TrainingLoop
from tests.workload.trainings import CLASSES, INPUTS


def chosen(**given: Any) -> TrainingLoop:
    model = nn.Linear(4, 3)
    parts = Parts(model=model, **given)
    samples = open_samples((INPUTS, CLASSES))
    arithmetic = Arithmetic(Precision.FP32, "cpu")
    return loop_choice.choose(parts, model, samples, "cpu", arithmetic, lambda phase: None)


def whole_step(model: Any, optimizers: Any, batch: Any) -> None: ...


def step_loss(model: Any, batch: Any) -> torch.Tensor:
    return torch.zeros((), requires_grad=True)


@pytest.mark.parametrize(
    ("given", "kind", "loss", "precision"),
    [
        ({}, LossLoop, "cross-entropy", Precision.FP32),
        ({"training_step": step_loss}, LossLoop, "your `training_step`", Precision.FP32),
        ({"step": whole_step}, StepLoop, "your `step`", None),
        ({"step": whole_step, "training_step": step_loss}, StepLoop, "your `step`", None),
    ],
)
def test_the_loop_of_a_target(
    given: dict[str, Any], kind: type[TrainingLoop], loss: str, precision: Precision | None
) -> None:
    loop = chosen(**given)
    assert type(loop) is kind
    assert (loop.loss_name, loop.precision) == (loss, precision)
    assert bool(loop.why_no_gradient) == (kind is StepLoop)
    loop.make_optimizers()
    assert [type(optimizer) for optimizer in loop.optimizers] == [torch.optim.AdamW]


def test_a_loop_that_hides_its_gradient_says_so() -> None:
    loop = chosen(step=whole_step)
    for hidden in (loop.backward, loop.evaluation_loss):
        with pytest.raises(TargetError, match="keeps its gradients to itself"):
            hidden((INPUTS, CLASSES))

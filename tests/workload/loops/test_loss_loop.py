"""The loop of a loss: the life of gradients and of the last loss, accumulation."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autobatch.records.errors import TargetError
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer
from tests.workload.trainings import CLASSES, INPUTS, learns, linear, trainer


class Twice(torch.optim.SGD):
    """Looks at the loss twice, as sharpness-aware optimizers do."""

    def step(self, closure: Any) -> Any:
        return super().step(closure)


def test_a_training_step_of_ones_own_on_nested_batches() -> None:
    samples = [{"data": {"x": x}, "goal": [y]} for x, y in zip(INPUTS, CLASSES, strict=True)]
    made = trainer(
        linear(),
        samples,
        training_step=lambda model, batch: F.cross_entropy(model(batch["data"]["x"]), batch["goal"][0]),
    )
    assert made.describe().loss == "your `training_step`"
    assert learns(made)


def test_the_graph_of_a_loss_lives_until_the_next_one() -> None:
    """As in a loop of one's own: on a heap, what fits beside it is another size."""
    graphs: list[weakref.ref[Any]] = []

    def training_step(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, target = batch
        loss = F.cross_entropy(model(inputs), target)
        graphs.append(weakref.ref(loss))
        return loss

    one = trainer(nn.Linear(4, 3), (INPUTS, CLASSES), training_step=training_step)
    batch = one.load(8, 0)
    one.step(batch)
    assert graphs[0]() is not None
    one.step(batch)
    assert graphs[0]() is None
    assert graphs[1]() is not None


@pytest.mark.parametrize(
    ("zero_grad_after_forward", "accumulates"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_gradients_live_as_long_as_in_the_loop_that_is_measured(
    zero_grad_after_forward: bool, accumulates: bool
) -> None:
    """Through an evaluation; where they are zeroed late or accumulate, through the next forward pass too."""
    there: list[tuple[bool, bool]] = []

    class Watching(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            there.append((self.training, self.weight.grad is not None))
            return super().forward(inputs)

    parts = Parts(model=Watching(4, 3), dataset=(INPUTS, CLASSES))
    samples = open_samples((INPUTS, CLASSES))
    made = replace(parts, zero_grad_after_forward=zero_grad_after_forward)
    one = Trainer(made, samples, None, "cpu", accumulates=accumulates)
    batch = one.load(8, 0)
    one.step(batch)
    first = one.model.weight.grad
    one.evaluate(batch)
    one.step(batch)
    assert there == [(True, False), (False, True), (True, zero_grad_after_forward or accumulates)]
    assert (one.model.weight.grad is first) == accumulates


def test_a_step_that_accumulates_trains_like_any_other() -> None:
    weights = []
    for accumulates in (False, True):
        torch.manual_seed(0)
        parts = Parts(model=nn.Linear(4, 3), dataset=(INPUTS, CLASSES))
        one = Trainer(parts, open_samples((INPUTS, CLASSES)), None, "cpu", accumulates=accumulates)
        for seed in range(4):
            one.step(one.load(8, seed))
        weights.append(one.model.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_training_step_that_calls_backward_is_named() -> None:
    def training_step(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    made = trainer(linear(), (INPUTS, CLASSES), training_step=training_step)
    with pytest.raises(TargetError) as caught:
        made.step(made.load(4, 0))
    assert caught.value.code == "own_backward"
    assert "step(model, optimizer, batch)" in caught.value.hint


def test_a_loss_without_a_graph_is_named() -> None:
    made = trainer(
        linear(),
        (INPUTS, CLASSES),
        training_step=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]).detach(),
    )
    with pytest.raises(TargetError) as caught:
        made.step(made.load(4, 0))
    assert caught.value.code == "step_fails"
    assert "no graph" in caught.value.message


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, Twice])
def test_an_optimizer_that_needs_a_closure_leads_to_a_step(optimizer: Any) -> None:
    """pytorch/pytorch 111369; Lightning-AI/pytorch-lightning 246; skorch 207: LBFGS needs a closure."""
    with pytest.raises(TargetError) as caught:
        trainer(linear(), (INPUTS, CLASSES), optimizer=optimizer)
    assert caught.value.code == "needs_closure"
    assert optimizer.__name__ in caught.value.message
    assert "optimizer.step(closure)" in caught.value.hint


def test_an_optimizer_that_asks_for_its_closure_as_it_steps_leads_to_a_step_too() -> None:
    class Sharpness(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            assert closure is not None, "this optimizer requires a closure"

    made = trainer(linear(), (INPUTS, CLASSES), optimizer=lambda params: Sharpness(params, lr=0.1))
    with pytest.raises(TargetError) as caught:
        made.step(made.load(4, 0))
    assert caught.value.code == "needs_closure"
    assert caught.value.facts == ("AssertionError: this optimizer requires a closure",)


def test_an_optimizer_whose_closure_may_be_left_out_is_used() -> None:
    class Other(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    made = trainer(linear(), (INPUTS, CLASSES), optimizer=lambda params: Other(params, lr=0.1))
    made.step(made.load(4, 0))
    assert made.optimizer_steps > 0

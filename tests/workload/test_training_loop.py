"""What all training loops share: another model, a wrapper around it, and steps past that wrapper."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autobatch.workload.loops.step_loop import StepLoop
from autobatch.workload.parts import Parts


class Wrapper(nn.Module):
    """Counts its calls, as DistributedDataParallel would exchange gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls = 0

    def forward(self, *inputs: Any) -> Any:
        self.calls += 1
        return self.model(*inputs)


def forward_only(model: Any, optimizers: Any, batch: Any) -> Any:
    return model(batch).sum()


def loop(model: nn.Module) -> StepLoop:
    made = StepLoop(Parts(model=model), model, "cpu", lambda phase: None, forward_only)
    made.make_optimizers()
    return made


def test_steps_go_through_a_wrapper_and_past_it_when_alone() -> None:
    wrappers: list[Wrapper] = []

    def replicated(module: nn.Module) -> Wrapper:
        wrappers.append(Wrapper(module))
        return wrappers[-1]

    made = loop(nn.Linear(2, 1))
    made.replicate(replicated)
    batch = torch.ones(3, 2)
    together = made.step(batch)
    with made.alone():
        alone = made.step(batch)
    made.step(batch)
    assert wrappers[0].calls == 2
    assert together is not None
    assert alone is not None
    assert torch.equal(together, alone)


def test_another_model_takes_the_place_of_the_first() -> None:
    made = loop(nn.Linear(2, 1))
    other = Wrapper(nn.Linear(2, 1))
    made.use_model(other)
    made.step(torch.ones(3, 2))
    assert other.calls == 1
    assert made.parameters == 3
    made.make_optimizers()
    assert made.optimizers[0].param_groups[0]["params"] == list(other.parameters())

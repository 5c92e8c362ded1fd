"""The model of a target: a module, a function that returns one, or an error that says so."""

from __future__ import annotations

import pytest
from torch import nn

from autobatch.records.errors import TargetError, UsageError
from autobatch.records.workload import StepCount
from autobatch.workload.parts import Parts, check_model, schedule_of


def test_a_module_is_the_model_itself() -> None:
    model = nn.Linear(2, 3)
    parts = Parts(model=model)
    assert parts.make_model() is model
    assert parts.ready_model is model


def test_a_function_makes_a_new_model_each_time() -> None:
    parts = Parts(model=lambda: nn.Linear(2, 3))
    assert isinstance(parts.make_model(), nn.Linear)
    assert parts.make_model() is not parts.make_model()
    assert parts.ready_model is None


def test_a_model_that_is_neither() -> None:
    with pytest.raises(TargetError, match=r"the model of `net\.py` is a str"):
        check_model("resnet50", "net.py")


def test_a_function_that_returns_no_module() -> None:
    def build() -> str:
        return "resnet50"

    check_model(build, "find")
    with pytest.raises(TargetError, match=r"`build\(\)` returned a str, not an nn.Module"):
        Parts(model=build).make_model()


def test_only_positive_numbers_of_steps_are_a_schedule() -> None:
    counts = {"warmup_steps": 5, "max_steps": -1, "total_steps": True, "decay_steps": 2.5, "hold_steps": None}
    assert schedule_of(counts) == (StepCount(name="warmup_steps", steps=5),)


@pytest.mark.parametrize(("size", "steps"), [(10, 4), (8, 0), (None, 0)])
def test_accumulation_steps_that_do_not_divide_the_batch_size(size: int | None, steps: int) -> None:
    with pytest.raises(UsageError, match="must divide `batch_size`"):
        Parts(model=nn.Linear(2, 3), batch_size=size, accumulation_steps=steps)


def test_the_batches_of_a_loader_make_up_a_step() -> None:
    parts = Parts(model=nn.Linear(2, 3), accumulation_steps=4)
    assert parts.batch_size_with(8) == 32
    assert parts.batch_size_with(None) is None
    assert Parts(model=nn.Linear(2, 3), batch_size=64, accumulation_steps=4).batch_size_with(8) == 64

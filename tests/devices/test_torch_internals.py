"""The private names of torch that autobatch uses are there and mean the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn

from autobatch.devices import torch_internals


@pytest.fixture
def clean_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    limits = [name for name in ("recompile_limit", "cache_size_limit") if hasattr(torch._dynamo.config, name)]
    assert limits
    with torch._dynamo.config.patch({limits[0]: 8, f"accumulated_{limits[0]}": 256}):
        yield
    torch._dynamo.reset()


def eager(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    return graph.forward


def test_a_model_that_is_not_compiled() -> None:
    model = nn.Linear(2, 2)
    assert not torch_internals.is_compiled_wrapper(model)
    assert torch_internals.compiled_call(model) is None
    assert torch_internals.compiled_call("no module") is None


def test_the_settings_of_a_wrapper_and_of_a_call() -> None:
    model = nn.Linear(2, 2)
    wrapper = torch.compile(model, backend=eager, dynamic=True, fullgraph=True)
    assert torch_internals.is_compiled_wrapper(wrapper)
    assert torch_internals.wrapped_module(wrapper) is model
    settings = {"backend": eager, "dynamic": True, "fullgraph": True}
    assert torch_internals.compile_settings(wrapper) == settings
    model.compile(backend=eager, dynamic=True, fullgraph=True)
    assert torch_internals.compile_settings(torch_internals.compiled_call(model)) == settings
    broken = torch.compile(model, backend=eager)
    assert torch_internals.compile_settings(broken) == {"backend": eager, "dynamic": None, "fullgraph": False}


@pytest.mark.usefixtures("clean_compiler")
def test_the_limit_is_how_often_a_function_is_compiled() -> None:
    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch_internals.allow_compilations(3, 100)
    before = torch_internals.compiled_frames()
    compiled = torch.compile(nn.Linear(2, 2), backend=counting, dynamic=False)
    for size in range(2, 10):
        compiled(torch.zeros(size, 2))
    assert len(graphs) == 3
    assert torch_internals.compiled_frames() > before


def test_buffers_that_are_none_have_a_slot() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("late", None)
    slots = {name: buffer for _, name, buffer in torch_internals.buffer_slots(model)}
    assert slots["late"] is None
    assert slots["running_mean"] is model.running_mean
    torch_internals.fill_buffer(model, "late", torch.ones(1))
    assert model.late is not None
    assert "late" in dict(model.named_buffers())


def test_loss_modules() -> None:
    assert torch_internals.is_loss_module(nn.CrossEntropyLoss())
    assert not torch_internals.is_loss_module(nn.Linear(1, 1))


def test_importing_the_module_imports_no_torch() -> None:
    program = "import sys, autobatch.devices.torch_internals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

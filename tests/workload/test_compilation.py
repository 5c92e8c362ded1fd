"""Compiled models: sent whole, compiled for every size, and never timed or cut short while they compile."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn

from autobatch import api
from autobatch.decision.memory_forecast import live_bytes
from autobatch.devices import torch_internals
from autobatch.devices.cpu import CpuBackend
from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.worker import memory_trace
from autobatch.worker.first_state import FirstState
from autobatch.worker.step_timing import Measurer
from autobatch.workload import compilation, serialization
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_collections")

_SEEDED = torch.Generator().manual_seed(0)
INPUTS = torch.randn(64, 8, generator=_SEEDED)
TARGETS = torch.randint(3, (64,), generator=_SEEDED)
SLOW_TO_COMPILE = """
import time, torch
from torch import nn

def slowly(graph, inputs):
    time.sleep(2.5)
    return graph.forward

model = torch.compile(nn.Linear(4, 2), backend=slowly)
dataset = (torch.randn(64, 4), torch.zeros(64).long())
"""


@pytest.fixture(autouse=True)
def clean_torch() -> Iterator[None]:
    """torch's own limits, which a session lifts for good, and nothing compiled before."""
    torch._dynamo.reset()
    limits = [name for name in ("recompile_limit", "cache_size_limit") if hasattr(torch._dynamo.config, name)]
    with torch._dynamo.config.patch({limits[0]: 8, f"accumulated_{limits[0]}": 256}):
        yield
    torch._dynamo.reset()


class Counting:
    """A backend that notes the batch size of each graph it compiles, and runs graphs as they are."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        weights = (nn.Parameter, torch.SymInt, int)
        self.sizes += [len(one) for one in inputs if not isinstance(one, weights) and one.shape[1:] == (8,)]
        return graph.forward


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def trainer(model: nn.Module) -> Trainer:
    return Trainer(Parts(model=model), open_samples((INPUTS, TARGETS)), None, "cpu")


def sent(**parts: Any) -> Any:
    with serialization.packed(serialization.sendable(Parts(**parts))) as path:
        return serialization.unpacked_parts(path)


def test_a_wrapped_model_is_compiled_again_as_it_was_and_keeps_its_optimizer() -> None:
    model = torch.compile(net(), backend="aot_eager", dynamic=True, fullgraph=True)
    wrapped, before = model._orig_mod, dict(model.__dict__)
    parts = sent(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert compilation.is_compiled(parts.ready_model)
    assert torch_internals.compile_settings(parts.ready_model) == torch_internals.compile_settings(model)
    assert torch_internals.compile_settings(parts.ready_model)["fullgraph"] is True
    assert list(map(id, parts.ready_model.parameters())) == list(
        map(id, parts.optimizer.param_groups[0]["params"])
    )
    assert model._orig_mod is wrapped
    assert model.__dict__ == before


def test_parts_compiled_in_place_stay_compiled() -> None:
    """torch's own pickling drops that without a word, and the model would run uncompiled."""
    model = net()
    model[0].compile(backend="aot_eager", dynamic=False)
    call = model[0]._compiled_call_impl
    made = sent(model=model).ready_model
    assert [torch_internals.compiled_call(part) is not None for part in made] == [True, False, False]
    settings = torch_internals.compile_settings(made[0]._compiled_call_impl)
    assert settings["backend"].__name__ == "aot_eager"
    assert settings["dynamic"] is False
    assert model[0]._compiled_call_impl is call
    assert torch.equal(made(INPUTS), model(INPUTS))


def test_a_backend_of_the_users_own_and_inductors_options_are_kept() -> None:
    made = sent(model=torch.compile(net(), backend=Counting())).ready_model
    assert made(INPUTS).shape == (64, 3)
    assert torch_internals.compile_settings(made)["backend"].sizes == [64]
    tuned = torch.compile(net(), mode="max-autotune-no-cudagraphs")
    assert torch_internals.compile_settings(sent(model=tuned).ready_model)["options"]["max_autotune"] is True


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, None])
def test_no_size_runs_uncompiled(dynamic: bool | None) -> None:
    """Past its limit of 8, torch runs what is new uncompiled: here every size but those would be."""
    counting = Counting()
    made = trainer(torch.compile(net(), backend=counting, dynamic=dynamic))
    measurer = Measurer(CpuBackend(), made, 0, FirstState(made))
    sizes = range(4, 14)
    for size in sizes:
        assert measurer.try_out(size, 60.0).outcome is Outcome.OK
        before = torch_internals.compiled_frames()
        assert measurer.time_round(size, 1.0).optimizer_steps > 0
        assert torch_internals.compiled_frames() == before
    if dynamic is False:
        assert set(sizes) <= set(counting.sizes)
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in sizes:
            made.step(made.load(size, 0))


def test_after_a_warm_up_nothing_compiles_any_more() -> None:
    made = trainer(torch.compile(net(), backend="eager"))
    phases: list[str] = []
    made.on_phase = phases.append
    made.warm_up(made.load(8, 0))
    assert phases == ["load", compilation.BEGINS, compilation.ENDS]
    before = torch_internals.compiled_frames()
    assert before >= 2
    made.step(made.load(8, 1))
    made.evaluate(made.load(8, 2))
    assert torch_internals.compiled_frames() == before
    assert phases[3:] == ["load", "forward", "backward", "step", "load", "evaluation"]


def test_the_report_names_the_inner_model() -> None:
    assert trainer(net()).describe().model == "Sequential"
    assert trainer(torch.compile(net(), backend="eager")).describe().model == "Sequential (compiled)"
    in_place = net()
    in_place.compile(backend="eager")
    assert trainer(in_place).describe().model == "Sequential (compiled)"


@pytest.mark.parametrize("without_data", [False, True])
def test_the_trace_is_that_of_the_uncompiled_model_and_says_so(without_data: bool) -> None:
    backend = CpuBackend()
    plain = memory_trace.run(trainer(net()), backend, without_data=without_data)
    model = torch.compile(net(), backend="aot_eager")
    compiled = memory_trace.run(trainer(model), backend, without_data=without_data)
    assert plain.lines
    assert plain.detail == ""
    assert live_bytes(compiled.lines, 100) == live_bytes(plain.lines, 100)
    assert "without its compilation" in compiled.detail


def test_find_measures_a_compiled_model_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # Of such a wrapper, torch makes neither a length nor, therefore, a truth value.
    model = torch.compile(nn.Linear(8, 3), backend="aot_eager")
    weights = [p.clone() for p in model.parameters()]
    limits = Limits(min_batch=8, max_batch=16, budget_seconds=3.0, check=False)
    found = api.find(model, (INPUTS, TARGETS), device="cpu", limits=limits)
    assert found.workload.model == "Linear (compiled)"
    assert all(map(torch.equal, model.parameters(), weights))
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_folder_for_compiled_files_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    assert compilation.cache_folder() == {}
    compilation.remove_cache_folder({"TORCHINDUCTOR_CACHE_DIR": tempfile.gettempdir()})
    assert Path(tempfile.gettempdir()).is_dir()


@pytest.mark.slow
def test_compiling_may_take_longer_than_a_trial_and_costs_no_budget(tmp_path: Path) -> None:
    target = tmp_path / "slow_net.py"
    target.write_text(SLOW_TO_COMPILE)
    limits = Limits(trial_timeout_seconds=4.0)
    engine = LocalEngine(Recipe(target=str(target)), limits, "cpu", {}, print)
    try:
        engine.open()
        begin, busy = time.monotonic(), engine.busy_seconds
        tried = engine.try_out(8, 3.0, 3)
        assert tried.outcome is Outcome.OK, tried.detail
        assert engine.compile_seconds >= 5.0
        assert engine.busy_seconds - busy <= time.monotonic() - begin - 5.0
    finally:
        engine.close()


@pytest.mark.slow
def test_inductor_compiles_in_a_worker_and_its_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = Limits(min_batch=8, max_batch=16, budget_seconds=5.0, check=False, trial_timeout_seconds=300.0)
    found = api.find(torch.compile(net()), (INPUTS, TARGETS), device="cpu", limits=limits)
    assert found.chosen.optimizer_steps > 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_a_compiler_inductors_error_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nothing/g++")
    limits = Limits(min_batch=8, max_batch=16, budget_seconds=5.0, check=False, trial_timeout_seconds=300.0)
    with pytest.raises(AutobatchError) as raised:
        api.find(torch.compile(net()), (INPUTS, TARGETS), device="cpu", limits=limits)
    assert raised.value.code == "no_compiler"
    assert "/nothing/g++" in " ".join(raised.value.facts)

"""Precision, checkpointing and what to do where nothing fits: in a real worker, on the tests' device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autobatch.decision.memory_forecast import live_bytes
from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.measurement.climb import Climb
from autobatch.records.errors import DeviceError
from autobatch.records.limits import Limits, Precision
from autobatch.records.trial import Outcome
from autobatch.workload.precision import Arithmetic
from tests.accelerator import built_library, missing, model_preamble, testdev
from tests.contract.child import in_child
from tests.shared_worker import SharedWorker

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

MIB = 1 << 20
MakeEngine = Callable[..., LocalEngine]
# 2 MiB of weights; a sample keeps some 25 MiB of activations, or a part of that when checkpointed.
MODEL = """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 64)) for _ in range(4)
        )

    def forward(self, tokens):
        for block in self.blocks:
            tokens = checkpoint(block, tokens, use_reentrant=False) if SAVES else block(tokens)
        return tokens.mean(1)

def build_model():
    return Net()

dataset = torch.utils.data.TensorDataset(torch.randn(40, 1024, 64), torch.randint(64, (40,)))

def make_optimizer(params):
    return torch.optim.AdamW(params)
"""


def target(folder: Path, limit_bytes: int, *, saves: bool = False) -> Path:
    built_library()
    file = folder / "net.py"
    file.write_text(model_preamble(limit_bytes) + f"SAVES = {saves}\n" + MODEL)
    return file


@pytest.fixture
def engine(shared_worker: SharedWorker) -> MakeEngine:
    def make(file: Path, precision: Precision | None = None) -> LocalEngine:
        return shared_worker.engine(Recipe(target=str(file), precision=precision), device="testdev")

    return make


@pytest.mark.slow
def test_half_precision_trains_takes_less_and_is_traced(engine: MakeEngine, tmp_path: Path) -> None:
    peaks = {}
    for one in (Precision.FP32, Precision.FP16):
        opened = engine(target(tmp_path, 256 * MIB), one)
        try:
            opened.open()
            traced = opened.trace_memory()
            tried = opened.try_out(1, 60.0, 3)
        finally:
            opened.close()
        assert tried.outcome is Outcome.OK, tried.detail
        assert tried.optimizer_steps == 3
        assert traced.lines, traced.detail
        assert tried.peak_bytes is not None
        peaks[one] = tried.peak_bytes
        assert live_bytes(traced.lines, 1) == pytest.approx(peaks[one], rel=0.2)
    assert peaks[Precision.FP16] < 0.85 * peaks[Precision.FP32]


def test_a_device_that_refuses_a_type_is_told() -> None:
    in_child(_refuse)


def _refuse() -> None:
    testdev.register(MIB)
    assert not Arithmetic(Precision.BF16, "testdev").scales
    assert Arithmetic(Precision.FP16, "testdev").scales
    testdev.get_amp_supported_dtype = lambda: [torch.float16]
    with pytest.raises(DeviceError) as raised:
        Arithmetic(Precision.BF16, "testdev")
    assert raised.value.code == "no_such_precision"


@pytest.mark.slow
def test_where_activations_are_too_large_checkpointing_is_hinted_and_helps(
    engine: MakeEngine, tmp_path: Path
) -> None:
    error = refusal(engine, target(tmp_path, 26 * MIB))
    assert error.code == "nothing_fits"
    (predicted,) = [fact for fact in error.facts if "predicted" in fact]
    assert "activations at batch size 1" in predicted
    assert "`torch.utils.checkpoint`" in error.hint
    opened = engine(target(tmp_path, 26 * MIB, saves=True))
    try:
        opened.open()
        tried = opened.try_out(1, 60.0, 3)
        assert tried.outcome is Outcome.OK, tried.detail
    finally:
        opened.close()


def test_where_the_optimizer_alone_is_too_large_checkpointing_is_not_hinted(
    engine: MakeEngine, tmp_path: Path
) -> None:
    error = refusal(engine, target(tmp_path, 6 * MIB))
    assert error.code == "nothing_fits"
    (predicted,) = [fact for fact in error.facts if "predicted" in fact]
    fixed = float(predicted.removeprefix("predicted by a trace: ").split(" MiB")[0])
    # Weights, gradients and two moments of each.
    assert 4 * 2 <= fixed <= 7 * 2
    assert "checkpointing can't help" in error.hint


def refusal(engine: MakeEngine, file: Path) -> DeviceError:
    opened = engine(file)
    try:
        with pytest.raises(DeviceError) as raised:
            Climb(opened, Limits()).run()
    finally:
        opened.close()
    return raised.value

"""Autocast and scaled gradients on a real CPU: what is computed how, what is skipped, and what is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autobatch import api
from autobatch.devices.cpu import CpuBackend
from autobatch.engines import messages
from autobatch.records.device import Device
from autobatch.records.errors import DeviceError, TargetError, UsageError
from autobatch.records.formatting import parse_precision
from autobatch.records.limits import Limits, Precision
from autobatch.records.trial import Outcome
from autobatch.records.workload import Workload
from autobatch.reports.text import terminal
from autobatch.storage import codec
from autobatch.worker.first_state import FirstState
from autobatch.worker.gradients import measure_chunks
from autobatch.worker.session_setup import load_recipe, with_options
from autobatch.worker.step_timing import Measurer
from autobatch.workload.dataset import open_samples
from autobatch.workload.loss import infer
from autobatch.workload.parts import Parts
from autobatch.workload.precision import FIRST_SCALE, Arithmetic
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_collections")

_SEEDED = torch.Generator().manual_seed(0)
INPUTS = torch.randn(64, 8, generator=_SEEDED)
TARGETS = torch.randn(64, 2, generator=_SEEDED)
HALF = [Precision.BF16, Precision.FP16]
MODEL = "from torch import nn\nmodel = nn.Linear(4, 2)\n"


class Noting(nn.Module):
    """Notes the types of what its layer gives, in training and else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 2)
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(inputs)
        self.seen.add((self.training, output.dtype))
        return output


def trainer(precision: Precision, model: nn.Module | None = None, **parts: Any) -> Trainer:
    found = Parts(model=model or Noting(), precision=precision, **parts)
    return Trainer(found, open_samples((INPUTS, TARGETS)), None, "cpu")


def times(factor: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda output, target: factor * nn.functional.mse_loss(output.float(), target)


def gradients(made: Trainer) -> torch.Tensor:
    made.backward(made.load(32, 0))
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_training_evaluation_and_noise_compute_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    made = trainer(Precision(precision))
    loss = made.step(made.load(16, 0))
    assert loss is not None
    assert loss.dtype is torch.float32
    made.evaluate(made.load(16, 0))
    assert made.model.seen == {(True, dtype), (False, dtype)}
    made.model.seen.clear()
    measure_chunks(made, 8, 4, 0)
    assert made.model.seen == {(True, dtype)}
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert made.describe().precision is Precision(precision)


@pytest.mark.parametrize("precision", HALF)
def test_gradients_of_the_noise_are_not_scaled(precision: Precision) -> None:
    exact = gradients(trainer(Precision.FP32))
    assert torch.allclose(gradients(trainer(precision)), exact, rtol=0.05, atol=0.01)


def test_small_gradients_survive_fp16() -> None:
    """Without a scale all of them would be zero: the smallest number of fp16 is 6e-8."""
    exact = gradients(trainer(Precision.FP32, loss_fn=times(1e-8)))
    assert 0 < exact.abs().max() < 3e-8
    found = gradients(trainer(Precision.FP16, loss_fn=times(1e-8)))
    assert torch.allclose(found, exact, rtol=0.05, atol=1e-10)


def test_steps_that_overflow_are_skipped_until_a_scale_is_found() -> None:
    made = trainer(Precision.FP16, loss_fn=times(100.0))
    before = [p.clone() for p in made.model.parameters()]
    made.step(made.load(16, 0))
    assert (made.skipped_steps, made.optimizer_steps) == (1, 0)
    assert all(map(torch.equal, made.model.parameters(), before))
    made.warm_up(made.load(16, 0))
    skipped, stepped = made.skipped_steps, made.optimizer_steps
    assert stepped == 1
    for seed in range(5):
        made.step(made.load(16, seed))
    assert (made.skipped_steps, made.optimizer_steps) == (skipped, stepped + 5)
    assert all(p.isfinite().all() for p in made.model.parameters())


def test_an_overflow_in_the_noise_is_taken_again_at_a_smaller_scale() -> None:
    exact = gradients(trainer(Precision.FP32, loss_fn=times(100.0)))
    found = gradients(trainer(Precision.FP16, loss_fn=times(100.0)))
    assert torch.allclose(found, exact, rtol=0.05, atol=1.0)


def test_a_trial_counts_its_steps_after_the_scale_is_found() -> None:
    made = trainer(Precision.FP16, loss_fn=times(100.0))
    tried = Measurer(CpuBackend(), made, 0, FirstState(made)).try_out(16, 60.0)
    assert tried.outcome is Outcome.OK
    assert (tried.steps, tried.optimizer_steps, tried.skipped_steps) == (3, 3, 0)


def test_gradients_beyond_every_scale_are_the_users_to_repair() -> None:
    made = trainer(Precision.FP16, loss_fn=lambda output, target: (0 * output).sqrt().sum())
    with pytest.raises(TargetError) as raised:
        made.warm_up(made.load(16, 0))
    assert raised.value.code == "gradient_not_finite"
    assert "bf16" in raised.value.hint


def test_a_loss_that_is_not_finite_is_not_taken_for_an_overflow() -> None:
    made = trainer(Precision.FP16, loss_fn=times(math.inf))
    tried = Measurer(CpuBackend(), made, 0, FirstState(made)).try_out(16, 60.0)
    assert not tried.finite
    assert tried.optimizer_steps + tried.skipped_steps == 3


def test_every_training_begins_with_the_first_scale() -> None:
    made = trainer(Precision.FP16, loss_fn=times(100.0))
    start = Snapshot(made)
    made.warm_up(made.load(16, 0))
    assert made.arithmetic.state()["scale"] < FIRST_SCALE
    start.restore()
    assert made.arithmetic.state()["scale"] == FIRST_SCALE
    made.step(made.load(16, 0))
    assert made.skipped_steps > 0


def test_an_inferred_squared_error_is_not_rounded_to_half_precision() -> None:
    _, loss_fn, _ = infer(TARGETS)
    output = torch.zeros(64, 2, dtype=torch.bfloat16)
    assert loss_fn(output, TARGETS).item() == pytest.approx(TARGETS.square().mean().item(), rel=1e-6)


@pytest.mark.parametrize("precision", HALF)
def test_a_device_without_it_is_refused(precision: Precision) -> None:
    with pytest.raises(DeviceError) as raised:
        Arithmetic(precision, "meta")
    assert raised.value.code == "no_such_precision"
    assert f"`{precision}` can't be used on `meta`" in raised.value.message
    Arithmetic(Precision.FP32, "meta")


@pytest.mark.parametrize("value", ["half", "BF16", "", 16, None])
def test_other_names_are_refused(value: object) -> None:
    with pytest.raises(UsageError) as raised:
        parse_precision(value)
    assert raised.value.code == "bad_precision"
    assert all(f"`{one}`" in raised.value.message for one in ("fp32", "bf16", "fp16"))


def test_find_refuses_before_anything_starts() -> None:
    with pytest.raises(UsageError):
        api.find(nn.Linear(8, 2), (INPUTS, TARGETS), precision="double")


@pytest.mark.parametrize(
    ("line", "option", "meant"),
    [
        ("", None, "fp32"),
        ("precision = 'bf16'", None, "bf16"),
        ("precision = 'bf16'", "fp16", "fp16"),
        ("precision = 'bf16'", "fp32", "fp32"),
        ("def precision(output, target): ...", None, "fp32"),
        ("precision = 'bf16'\ndef step(model, optimizer, batch): ...", None, "fp32"),
    ],
)
def test_the_file_says_it_and_the_option_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, option: str | None, meant: str
) -> None:
    assert _parts_of(tmp_path, monkeypatch, line, option).precision is Precision(meant)


def test_a_bad_name_in_the_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not `16-mixed`"):
        _parts_of(tmp_path, monkeypatch, "precision = '16-mixed'", None)


def test_a_loop_of_the_users_own_has_its_own_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as raised:
        _parts_of(tmp_path, monkeypatch, "def step(model, optimizer, batch): ...", "bf16")
    assert raised.value.code == "own_precision"
    assert "`step`" in raised.value.hint


def _parts_of(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, option: str | None) -> Any:
    file = folder / f"net_{folder.name.replace('-', '_')}.py"
    file.write_text(MODEL + line + "\n")
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, file.stem, raising=False)
    chosen = None if option is None else Precision(option)
    recipe = messages.Recipe(target=str(file), precision=chosen)
    return with_options(load_recipe(recipe), recipe)


def test_find_trains_in_fp16_and_its_report_says_so() -> None:
    limits = Limits(min_batch=8, max_batch=16, budget_seconds=600)
    found = api.find(
        nn.Linear(8, 2), (INPUTS, TARGETS), precision="fp16", device="cpu", epochs=4, limits=limits
    )
    assert found.workload.precision is Precision.FP16
    assert found.check is not None
    assert found.check.noise_scale is not None
    assert "fp16 autocast" in terminal.render(found)
    assert codec.parse(codec.render(found)).workload.precision is Precision.FP16


@pytest.mark.parametrize(
    ("precision", "told"), [(Precision.FP32, False), (Precision.BF16, True), (None, False)]
)
def test_only_autocast_is_worth_a_word(precision: Precision | None, told: bool) -> None:
    workload = Workload(
        target="m.py", model="Net", parameters=1, loss="mse", optimizer="SGD", precision=precision
    )
    header = terminal.header(Device(kind="cpu", index=0, name="a CPU"), workload)
    assert ("bf16 autocast" in header) is told
    assert ("autocast" in header) is told

"""Plans of real models in real workers: what people call with, and what can't be traced without data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autobatch
from autobatch import AutobatchError, Limits
from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.engines.trace_messages import Storages, TraceStorages
from autobatch.examples import digits_cnn
from autobatch.memory.storage_log import Lifetime, events_at, peak_bytes
from autobatch.planning.assembly import plan_recipe
from autobatch.planning.catalogue import parse_devices

GIB = 1 << 30
IMAGE = (torch.zeros(3, 16, 16), 1)


class Masked(nn.Module):
    """Its path depends on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 600)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs[inputs[:, 0] > -100.0])


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 1:
            raise ValueError("one at a time, please")
        return self.layer(inputs)


@pytest.mark.slow
def test_the_digits_example() -> None:
    recipe = Recipe(target="autobatch.examples.digits_cnn")
    devices = parse_devices("1GiB,here,t4")
    found = plan_recipe(recipe, devices, batch_size=256, channels_last=False)
    small, here, t4 = found.fits
    assert small.batch_size < t4.batch_size
    assert here.device.kind in ("cpu", "cuda", "mps", "xpu")
    assert here.batch_size > 0
    weights_bytes = sum(p.numel() * 4 for p in digits_cnn.build_model().parameters())
    parts = t4.usage.parts
    assert weights_bytes <= parts.parameters_bytes <= weights_bytes + 20 * 1024
    assert parts.optimizer_bytes >= 2 * weights_bytes
    assert parts.activations_bytes > 0.9 * t4.usage.allocated_bytes
    assert found.asked is not None
    assert found.asked.smallest == "1GiB"
    assert found.predicted


def test_a_model_of_transformers_and_one_sample() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=100, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    weights = [one.clone() for one in model.parameters()]
    codes = torch.zeros(48, dtype=torch.long)
    sample = {"input_ids": codes, "labels": codes}
    found = autobatch.plan(model, sample, on="1GiB", precision="bf16", optimizer="sgd")
    assert found.workload.loss == "the model's own"
    assert found.fits[0].batch_size > 10
    assert found.fits[0].usage.parts.optimizer_bytes == 0
    # Tied weights count once, and the caller's model is as it was.
    held = (*model.parameters(), *model.buffers())
    own_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert found.fits[0].usage.parts.parameters_bytes <= own_bytes + 80 * 512
    assert all(map(torch.equal, model.parameters(), weights))
    assert any("bf16 autocast" in one for one in found.assumptions)


def test_what_can_not_run_without_data_is_traced_on_small_real_batches() -> None:
    found = autobatch.plan(Masked(), (torch.zeros(8), 1), on="1GiB")
    assert found.fits[0].batch_size > 1000
    assert found.fits[0].low == int(0.8 * found.fits[0].batch_size)
    assert any("can't run without data" in one for one in found.warnings)


def test_a_step_that_fails_is_told_and_gives_no_number() -> None:
    with pytest.raises(AutobatchError) as raised:
        autobatch.plan(Broken(), (torch.zeros(8), 1), on="1GiB")
    assert raised.value.code == "cannot_trace"
    assert sum("one at a time, please" in fact for fact in raised.value.facts) == 2
    assert raised.value.hint


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"on": "toaster"}, "unknown_device"),
        ({"on": "1GiB", "batch_size": 0}, "bad_batch_size"),
        ({"on": "1GiB", "precision": "fp8"}, "bad_precision"),
        ({"on": "1GiB", "optimizer": "newton"}, "bad_optimizer"),
    ],
)
def test_arguments_that_can_not_be_meant(arguments: dict[str, object], code: str) -> None:
    with pytest.raises(AutobatchError) as raised:
        autobatch.plan(nn.Linear(8, 4), (torch.zeros(8), 1), **arguments)  # type: ignore[arg-type]
    assert raised.value.code == code


LIGHTNING = """
import torch
from lightning.pytorch import LightningModule
from torch import nn

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 256)

    def training_step(self, batch, number):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

    def train_dataloader(self):
        data = torch.utils.data.TensorDataset(torch.zeros(40, 16))
        return torch.utils.data.DataLoader(data, batch_size=4)

def build_model():
    return Net()
"""
ACCUMULATES = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 4))

dataset = (torch.zeros(64, 16), torch.zeros(64, dtype=torch.long))

def make_optimizers(model):
    return [torch.optim.SGD(model.parameters(), lr=0.1)]

def step(model, optimizer, batch):
    for _ in range({micro_steps}):
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def traced(target: Path) -> tuple[Lifetime, ...]:
    with_target = LocalEngine(Recipe(target=str(target)), Limits(), "cpu", {}, print)
    try:
        found: Storages = with_target.trace_storages(TraceStorages(sizes=(4, 8), cuda=True, fake=True))
    finally:
        with_target.close()
    assert found.lifetimes, found.detail
    return found.lifetimes


@pytest.mark.slow
def test_a_lightning_module(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    target = tmp_path / "module.py"
    target.write_text(LIGHTNING)
    lifetimes = traced(target)
    weights_bytes = (16 * 256 + 256) * 4
    assert sum(one.size_bytes(1) for one in lifetimes if one.kind == "parameter") == weights_bytes


@pytest.mark.slow
def test_gradients_that_are_accumulated_are_there_in_the_next_forward_pass(tmp_path: Path) -> None:
    peaks = []
    for count in (1, 2):
        target = tmp_path / f"loop{count}.py"
        target.write_text(ACCUMULATES.replace("{micro_steps}", str(count)))
        peaks.append(peak_bytes(events_at(traced(target), 2000)))
    weights_bytes = (16 * 512 + 512 + 512 * 4 + 4) * 4
    assert peaks[1] - peaks[0] == pytest.approx(weights_bytes, rel=0.3)

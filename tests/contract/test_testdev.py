"""The accelerator of the tests: what others are tested with has to be trusted first."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autobatch.devices.accelerator import AcceleratorBackend, fraction_of
from autobatch.records.errors import DeviceError
from tests.accelerator import missing, model_preamble, testdev
from tests.contract.child import in_child

MIB = 1 << 20
BLOCK = 512
DEVICE = "testdev"

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.position = nn.Parameter(torch.zeros(1, 12, 32))
        self.norm = nn.LayerNorm(32)
        self.project = nn.Linear(32, 96)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.norm(self.embedding(tokens) + self.position)
        size = (*hidden.shape[:2], 3, 4, 8)
        query, key, value = self.project(hidden).view(size).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + attended.transpose(1, 2).reshape(hidden.shape)
        logits: Tensor = self.head(F.gelu(self.encoder(hidden)).mean(1).softmax(-1))
        return logits


def make_mlp() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 5))
    return model, torch.randn(32, 20)


def make_cnn() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 8, 2, stride=2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return model, torch.randn(32, 3, 8, 8)


def make_transformer() -> tuple[nn.Module, Tensor]:
    return Transformer(), torch.randint(0, 50, (32, 12))


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.02),
    "adamw_fused": partial(torch.optim.AdamW, lr=0.02, fused=True),
    "adamw_loop": partial(torch.optim.AdamW, lr=0.02, foreach=False),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [make_mlp, make_cnn, make_transformer])
def test_trains(make: Callable[[], tuple[nn.Module, Tensor]], optimizer: str) -> None:
    in_child(_train, make, optimizer)


def _train(make: Callable[[], tuple[nn.Module, Tensor]], optimizer_name: str) -> None:
    testdev.register(64 * MIB)
    torch.manual_seed(0)
    model, inputs = make()
    targets = torch.randint(0, 5, (len(inputs),))
    on_cpu = model(inputs).detach() if optimizer_name == "sgd" and make is make_cnn else None
    inputs, targets = inputs.to(DEVICE), targets.to(DEVICE)
    model.to(DEVICE)
    if on_cpu is not None:
        assert torch.equal(model(inputs).cpu(), on_cpu)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05, losses
    model.eval()
    with torch.no_grad():
        assert model(inputs).isfinite().all()


def test_runs_out_at_the_exact_byte() -> None:
    in_child(_run_out)


def _run_out() -> None:
    testdev.register(MIB)
    most = _take(MIB - BLOCK)
    last = _take(BLOCK)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 1 bytes\. .*1024\.00 KiB") as raised:
        _take(1)
    assert "0 bytes is free" in str(raised.value)
    assert torch.accelerator.memory_stats()["num_ooms"] == 1
    del last
    _take(BLOCK)
    with pytest.raises(torch.OutOfMemoryError):
        _take(BLOCK + 1)
    del most
    _take(MIB)


def test_recovers_from_a_step_that_ran_out() -> None:
    in_child(_recover)


def _recover() -> None:
    testdev.register(4 * MIB)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1)).to(DEVICE)
    at_rest = torch.accelerator.memory_allocated()
    for batch_size, fits in ((64, True), (100_000, False), (64, True)):
        try:
            model(torch.zeros(batch_size, 64, device=DEVICE)).sum().backward()
        except torch.OutOfMemoryError:
            assert not fits
        else:
            assert fits
        model.zero_grad()
        assert torch.accelerator.memory_allocated() == at_rest


def test_peak_is_that_of_live_tensors() -> None:
    in_child(_count_live)


def _count_live() -> None:
    testdev.register(64 * MIB)
    first = _take(MIB + 1)
    second = _take(300)
    assert torch.accelerator.memory_allocated() == MIB + 2 * BLOCK
    del first
    third = _take(2 * MIB)
    assert torch.accelerator.memory_allocated() == 2 * MIB + BLOCK
    assert torch.accelerator.max_memory_allocated() == 2 * MIB + BLOCK
    del third
    torch.accelerator.reset_peak_memory_stats()
    assert torch.accelerator.max_memory_allocated() == BLOCK
    assert torch.accelerator.max_memory_reserved() == 2 * MIB + BLOCK
    torch.accelerator.empty_cache()
    assert torch.accelerator.memory_reserved() == BLOCK
    assert torch.accelerator.get_memory_info() == (64 * MIB - BLOCK, 64 * MIB)
    del second
    assert torch.accelerator.memory_allocated() == 0


def test_kernels_leave_no_temporaries_in_the_peak() -> None:
    in_child(_count_a_step)


def _count_a_step() -> None:
    testdev.register(64 * MIB)
    images = torch.zeros(8, 4, 16, 16, device=DEVICE, requires_grad=True)
    weight = torch.zeros(4, 4, 3, 3, device=DEVICE, requires_grad=True)
    output = F.conv2d(images, weight, padding=1)
    # A gradient that isn't contiguous: to make it so is the kernel's business, on the host.
    gradient = torch.zeros(8, 16, 16, 4, device=DEVICE).permute(0, 3, 1, 2)
    output.backward(gradient)
    large, small = 8 * 4 * 16 * 16 * 4, 4 * 4 * 3 * 3 * 4
    expected = 4 * large + 2 * (-(-small // BLOCK) * BLOCK)
    assert torch.accelerator.max_memory_allocated() == expected
    assert torch.accelerator.memory_allocated() == expected


def test_accelerator_calls_are_live() -> None:
    in_child(_ask_torch)


def _ask_torch() -> None:
    testdev.register(64 * MIB)
    assert str(torch.accelerator.current_accelerator()) == DEVICE
    assert torch.accelerator.is_available()
    assert torch.accelerator.device_count() == 1
    assert torch.accelerator.current_device_index() == 0
    torch.accelerator.set_device_index(0)
    torch.accelerator.synchronize()
    torch.accelerator.current_stream().synchronize()
    with pytest.raises(RuntimeError):
        torch.accelerator.set_device_index(1)
    testdev.register(32 * MIB)
    assert torch.accelerator.get_memory_info()[1] == 32 * MIB
    testdev.register()
    assert torch.accelerator.get_memory_info()[1] == 32 * MIB, "a second call without a size keeps it"


def test_what_training_programs_do_besides() -> None:
    in_child(_use_widely)


def _use_widely() -> None:
    testdev.register(64 * MIB)
    torch.manual_seed(7)
    model, inputs = make_mlp()
    model, inputs = model.to(DEVICE), inputs.to(DEVICE)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    twin = copy.deepcopy(model)
    twin.load_state_dict(torch.load(stored))
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    with torch.random.fork_rng(device_type=DEVICE):
        drawn = torch.randn(3, device=DEVICE)
    assert torch.equal(torch.randn(3, device=DEVICE), drawn)
    assert torch.utils.checkpoint.checkpoint(model, inputs, use_reentrant=False).requires_grad
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        logits = model(inputs)
        assert logits.dtype == torch.bfloat16
        assert (
            F.cross_entropy(logits, torch.zeros(32, dtype=torch.long, device=DEVICE)).dtype == torch.float32
        )
    logits.sum().backward()


def test_fraction_keeps_every_byte() -> None:
    for total in (3, 10**9 + 7, 80 << 30, (1 << 50) - 1):
        for cap in (1, total // 3 or 1, total // 2 or 1, total - 1, total):
            assert int(fraction_of(cap, total) * total) == cap


def test_limit_is_exact() -> None:
    in_child(_limit_exactly)


def _limit_exactly() -> None:
    testdev.register(64 * MIB)
    backend = AcceleratorBackend(DEVICE)
    rest = _take(3 * BLOCK)
    backend.limit_memory(7 * MIB + BLOCK)
    _take(7 * MIB + BLOCK)
    with pytest.raises(torch.OutOfMemoryError, match="allowed"):
        _take(7 * MIB + BLOCK + 1)
    backend.reset_peak()
    _take(MIB)
    assert backend.peak().allocated_bytes == MIB
    assert backend.peak().reserved_bytes == 7 * MIB + BLOCK
    assert backend.describe().name == "Test Device"
    assert backend.describe().free_bytes == 64 * MIB - 3 * BLOCK - (7 * MIB + BLOCK)
    del rest


def test_absent_devices_are_refused() -> None:
    in_child(_ask_for_absent_devices)


def _ask_for_absent_devices() -> None:
    with pytest.raises(DeviceError) as without:
        AcceleratorBackend(DEVICE)
    assert without.value.code == "no_device"
    testdev.register(64 * MIB)
    for kind, index in ((DEVICE, 1), ("xpu", 0)):
        with pytest.raises(DeviceError) as refused:
            AcceleratorBackend(kind, index)
        assert refused.value.facts == ("it has: `testdev:0`, `cpu`",)


def test_device_without_a_limit_says_so() -> None:
    in_child(_limit_without_a_way)


def _limit_without_a_way() -> None:
    testdev.register(64 * MIB)
    del testdev.set_per_process_memory_fraction
    backend = AcceleratorBackend(DEVICE)
    backend.limit_memory(None)
    assert backend.describe().limit_bytes == 64 * MIB
    with pytest.raises(DeviceError) as refused:
        backend.limit_memory(32 * MIB)
    assert refused.value.code == "no_memory_limit"


def test_model_file_brings_its_device(tmp_path: Path) -> None:
    """A worker knows nothing of this tree: the lines at the top of a model file have to do."""
    model_file = tmp_path / "model.py"
    model_file.write_text(
        model_preamble() + "import torch\n"
        "print(torch.accelerator.current_accelerator(), torch.accelerator.get_memory_info()[1])\n"
    )
    environment = os.environ | {"TESTDEV_LIMIT_BYTES": str(5 * MIB)}
    command = [sys.executable, str(model_file)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [DEVICE, str(5 * MIB)], done.stderr


def _take(size_bytes: int) -> Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, device=DEVICE)

"""CUDA's rules on CPU tensors: they stay with their process, so each test has one of its own."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from autobatch.memory import cuda_rules
from autobatch.memory.storage_log import Birth, Kind, align, events_at, peak_bytes
from autobatch.memory.trace import Trace, trace_step
from tests.contract.child import in_child

HALVES = (torch.float16, torch.bfloat16)


def make(optimizer: str, parameters: Any) -> torch.optim.Optimizer:
    if optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=0.01)
    return torch.optim.AdamW(parameters, lr=0.01, fused=True if optimizer == "fused" else None)


def trace(
    model: nn.Module,
    inputs: torch.Tensor,
    *,
    optimizer: str = "sgd",
    dtype: torch.dtype | None = None,
    fake: bool = True,
    channels_last: bool = False,
    accumulate: int = 1,
) -> Trace:
    made = make(optimizer, [one for one in model.parameters() if one.requires_grad])

    def step(batch: torch.Tensor) -> None:
        for _ in range(accumulate):
            with torch.autocast("cuda", dtype or torch.float16, enabled=dtype is not None):
                output = model(batch)
                output = output[0] if isinstance(output, tuple) else output
            output.float().square().mean().backward()
        made.step()
        made.zero_grad(set_to_none=True)

    return trace_step(model, [made], inputs, step, fake=fake, channels_last=channels_last)


def kept_bytes(traced: Trace, kind: Kind) -> int:
    """Bytes of the first step's storages of a kind that were ever alive."""
    return sum(one.size_bytes for one in traced.events if isinstance(one, Birth) and one.kind is kind)


def peak_at(traces: Callable[[int], Trace], size: int) -> int:
    lifetimes = align(traces(4).events, 4, traces(8).events, 8)
    assert lifetimes is not None
    return peak_bytes(events_at(lifetimes, size))


def test_autocast_has_the_types_of_cuda() -> None:
    in_child(_autocast)


def _autocast() -> None:
    values = torch.randn(4, 8)
    for dtype in HALVES:
        cuda_rules.install()
        with torch.autocast("cuda", dtype):
            product = values @ values.T
            assert product.dtype is dtype
            for result in (product.softmax(1), product.log_softmax(1), product.sum(), product.exp()):
                assert result.dtype is torch.float32
            normed = nn.functional.layer_norm(product, (4,))
            assert normed.dtype is torch.float32
            assert product.softmax(1, dtype=torch.float64).dtype is torch.float64
            assert product.relu().dtype is dtype
        assert values.softmax(1).dtype is torch.float32
    assert torch.equal(values.softmax(1), torch.softmax(values, 1))


def test_a_norm_under_autocast_keeps_no_wide_copy_of_its_input() -> None:
    in_child(_norms)


def _norms() -> None:
    cuda_rules.install()
    values = torch.randn(100, 64, dtype=torch.float16, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(one: torch.Tensor) -> torch.Tensor:
        kept.append(one)
        return one

    with torch.autocast("cuda"), torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        assert torch.linalg.vector_norm(values, dim=1).dtype is torch.float32
    assert [one.dtype for one in kept if one.shape == values.shape] == [torch.float16]


class Operators(TorchDispatchMode):
    """Notes the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._opname)
        return func(*args, **kwargs or {})


def test_cross_entropy_under_autocast_widens_where_cuda_does() -> None:
    in_child(_cross_entropy)


def _cross_entropy() -> None:
    cuda_rules.install()
    with FakeTensorMode():
        logits = torch.empty(16, 1000, dtype=torch.float16, requires_grad=True)
        target = torch.empty(16, dtype=torch.long)
        with Operators() as ran, torch.autocast("cuda"):
            loss = nn.functional.cross_entropy(logits, target)
            loss.backward()
    assert loss.dtype is torch.float32
    assert logits.grad is not None
    assert logits.grad.dtype is torch.float16
    # It tells its log_softmax to keep the type; nll_loss is the one that widens.
    assert ran.names.index("_log_softmax") < ran.names.index("_to_copy") < ran.names.index("nll_loss_forward")


def test_dropout_keeps_a_mask_of_bytes_and_attention_keeps_no_weights() -> None:
    in_child(_dropout)


def _dropout() -> None:
    def attention(batch: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(batch, batch, batch, dropout_p=0.1)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return attention(batch * self.weight)

    inputs = torch.randn(2, 2, 256, 8)
    weights_bytes = 2 * 2 * 256 * 256 * 4
    before = peak_bytes(trace(Attention(), inputs).events)
    assert before > 2 * weights_bytes
    wide = nn.Sequential(nn.Linear(8, 512), nn.Dropout(0.5), nn.Linear(512, 1))
    copies = peak_bytes(trace(wide, torch.randn(64, 8)).events)
    cuda_rules.install()
    assert peak_bytes(trace(Attention(), inputs).events) < weights_bytes
    masks = peak_bytes(trace(wide, torch.randn(64, 8)).events)
    assert copies - masks >= 2 * 64 * 512


def test_optimizers_go_through_all_parameters_at_once() -> None:
    in_child(_optimizers)


def _optimizers() -> None:
    def model() -> nn.Module:
        return nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))

    weights_bytes = 6 * (64 * 64 + 64) * 4
    inputs = torch.randn(2, 64)
    one_by_one = trace(model(), inputs, optimizer="adamw")
    cuda_rules.install()
    at_once = trace(model(), inputs, optimizer="adamw")
    fused = trace(model(), inputs, optimizer="fused")
    assert kept_bytes(at_once, Kind.PARAMETER) == weights_bytes
    assert kept_bytes(at_once, Kind.GRADIENT) == 2 * weights_bytes
    assert 2 * weights_bytes < kept_bytes(at_once, Kind.OPTIMIZER) < 2.1 * weights_bytes
    assert kept_bytes(fused, Kind.WORKSPACE) == 0
    assert peak_bytes(at_once.events) > peak_bytes(one_by_one.events) + weights_bytes // 2
    assert peak_bytes(fused.events) < peak_bytes(at_once.events)


def test_precision_and_layout_count() -> None:
    in_child(_precision_and_layout)


def _precision_and_layout() -> None:
    cuda_rules.install()

    def net() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten()
        )

    def at(size: int, **settings: Any) -> Trace:
        return trace(net(), torch.randn(size, 3, 32, 32), **settings)

    plain = at(8)
    halves = at(8, dtype=torch.bfloat16)
    assert peak_bytes(halves.events) < peak_bytes(plain.events)
    # The flattened output is a copy where the channels are last.
    last = at(8, channels_last=True)
    flat_bytes = 8 * 16 * 28 * 28 * 4
    more_bytes = kept_bytes(last, Kind.ACTIVATION) - kept_bytes(plain, Kind.ACTIVATION)
    assert more_bytes >= 2 * flat_bytes
    assert peak_at(lambda size: at(size, channels_last=True), 64) == peak_bytes(
        at(64, channels_last=True).events
    )


class Checkpointed(nn.Module):
    def __init__(self, *, saves: bool) -> None:
        super().__init__()
        self.saves = saves
        self.into = nn.Linear(16, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 32))
            for _ in range(4)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.into(inputs)
        for block in self.blocks:
            hidden = checkpoint(block, hidden, use_reentrant=False) if self.saves else block(hidden)
        return hidden


def test_what_models_do_to_save_memory_shows() -> None:
    in_child(_savings)


def _savings() -> None:
    cuda_rules.install()
    peaks = {
        saves: peak_at(lambda size, saves=saves: trace(Checkpointed(saves=saves), torch.randn(size, 16)), 512)
        for saves in (False, True)
    }
    assert peaks[True] < 0.6 * peaks[False]
    frozen = Checkpointed(saves=False)
    frozen.into.requires_grad_(False)
    frozen.blocks[:3].requires_grad_(False)
    traced = trace(frozen, torch.randn(4, 16), optimizer="adamw")
    last_bytes = sum(one.numel() * 4 for one in frozen.blocks[3].parameters())
    assert kept_bytes(traced, Kind.GRADIENT) == 2 * last_bytes
    once = peak_bytes(trace(Checkpointed(saves=False), torch.randn(4, 16)).events)
    twice = peak_bytes(trace(Checkpointed(saves=False), torch.randn(4, 16), accumulate=2).events)
    assert twice > once


def test_what_a_recurrent_layer_keeps_of_each_step_shows() -> None:
    in_child(_recurrent)


def _recurrent() -> None:
    cuda_rules.install()
    layer = nn.LSTM(16, 32, batch_first=True)
    # Of each step, four gates at least.
    gates_bytes = 100 * 24 * 4 * 32 * 4
    assert peak_at(lambda size: trace(layer, torch.randn(size, 24, 16)), 100) > 1.5 * gates_bytes
    for dtype in HALVES:
        real = nn.LSTM(16, 32, batch_first=True)
        assert peak_bytes(trace(real, torch.randn(4, 6, 16), dtype=dtype, fake=False).events) > 0


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], torch.Tensor]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10)),
        lambda size: torch.randn(size, 64),
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 9)
        ),
        lambda size: torch.randn(size, 3, 16, 16),
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
        lambda size: torch.randn(size, 24, 32),
    ),
    "checkpointed": (lambda: Checkpointed(saves=True), lambda size: torch.randn(size, 16)),
}


def test_the_predicted_peak_is_that_of_real_tensors() -> None:
    in_child(_agreement)


def _agreement() -> None:
    cuda_rules.install()
    errors = []
    for build, inputs in MODELS.values():
        for optimizer in ("sgd", "adamw"):
            for dtype in (None, torch.bfloat16):

                def at(size: int, fake: bool, build=build, inputs=inputs, o=optimizer, d=dtype) -> Trace:  # type: ignore[no-untyped-def]
                    return trace(build(), inputs(size), optimizer=o, dtype=d, fake=fake)

                predicted = peak_at(lambda size, at=at: at(size, True), 50)
                real = peak_bytes(at(50, False).events)
                errors.append(abs(predicted / real - 1))
    assert median(errors) <= 0.01
    assert max(errors) <= 0.05, errors

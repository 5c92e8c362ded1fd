"""The gradient's noise on real models: the right number, and nothing of the training changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autobatch.decision.constants import SKETCH_WIDTH
from autobatch.decision.noise_scale import NoiseScale, noise_scale
from autobatch.records.errors import TargetError
from autobatch.worker.gradients import Chunks, has_batch_norm, measure_chunks
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer

ROWS = 256
INPUTS = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(ROWS) % 3
TOKENS = torch.randint(20, (ROWS, 5), generator=torch.Generator().manual_seed(1))


def trainer(model: nn.Module, dataset: Any, **parts: Any) -> Trainer:
    found = Parts(model=model, dataset=dataset, **parts)
    return Trainer(found, open_samples(dataset, found.collate_fn), None, "cpu")


def judged(found: Chunks) -> NoiseScale:
    return noise_scale(found.chunk_size, found.squared_norms, found.inner_products, found.sum_squared_norm)


class Tied(nn.Module):
    """Embedding and output share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.output = nn.Linear(6, 20, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.output(self.embedding(tokens))
        return found


class Replacing(nn.Module):
    """Puts a new tensor of another shape in its buffer's place."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen = torch.cat([self.seen, inputs.detach().sum()[None]])
        found: torch.Tensor = self.body(inputs)
        return found


def with_batch_norm() -> Trainer:
    return trainer(
        nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), (INPUTS, CLASSES)
    )


def with_dropout() -> Trainer:
    return trainer(nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5), nn.Linear(6, 3)), (INPUTS, CLASSES))


def tied() -> Trainer:
    return trainer(Tied(), (TOKENS, TOKENS))


def frozen() -> Trainer:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    return trainer(model, (INPUTS, CLASSES))


def sparse() -> Trainer:
    model = nn.Sequential(nn.EmbeddingBag(20, 6, sparse=True), nn.Linear(6, 3))
    return trainer(
        model, (TOKENS, CLASSES), optimizer=lambda parameters: torch.optim.SGD(list(parameters), lr=0.1)
    )


def groups() -> Trainer:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    parts = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    return trainer(model, (INPUTS, CLASSES), optimizer=torch.optim.SGD(parts, lr=0.01, momentum=0.9))


def head_only() -> Trainer:
    """The body's gradients are made, though no optimizer follows or clears them."""
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return trainer(model, (INPUTS, CLASSES), optimizer=torch.optim.Adam(model[2].parameters(), lr=0.01))


def replacing() -> Trainer:
    return trainer(Replacing(), (INPUTS, CLASSES))


MAKERS = [with_batch_norm, with_dropout, tied, frozen, sparse, groups, head_only, replacing]
every_model = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
Maker = Callable[[], Trainer]


def made(make: Maker, steps: int = 3) -> Trainer:
    torch.manual_seed(0)
    found = make()
    for seed in range(steps):
        found.step(found.load(16, seed))
    return found


def state(found: Trainer) -> dict[str, Any]:
    model = found.model
    return copy.deepcopy(
        {
            "weights and buffers": model.state_dict(),
            "optimizers": [one.state_dict() for one in found.optimizers],
            "trained": [p.requires_grad for p in model.parameters()],
            "modes": [module.training for module in model.modules()],
            "random": torch.get_rng_state(),
            "steps": found.optimizer_steps,
        }
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@every_model
def test_nothing_changes(make: Maker) -> None:
    found = made(make)
    before, buffers = state(found), dict(found.model.named_buffers())
    measure_chunks(found, 8, 6, seed=100)
    after = state(found)
    for name in before:
        assert same(before[name], after[name]), name
    assert all(p.grad is None for p in found.model.parameters())
    assert all(buffer is buffers[name] for name, buffer in found.model.named_buffers())


@every_model
def test_training_goes_on_as_if_nothing_had_been_measured(make: Maker) -> None:
    def trained(measures: bool) -> dict[str, Any]:
        found = made(make)
        for seed in range(10, 15):
            if measures:
                measure_chunks(found, 8, 4, seed=100)
            found.step(found.load(16, seed))
        return state(found)

    assert same(trained(False), trained(True))


@every_model
def test_the_sums_are_those_of_the_gradients(make: Maker) -> None:
    """Fewer entries than numbers kept: the sketch is exact."""
    found = made(make)
    size, chunks = 8, 6
    parameters = list(dict.fromkeys(p for group in found.optimizers[0].param_groups for p in group["params"]))
    random, buffers = torch.get_rng_state(), copy.deepcopy(list(found.model.named_buffers()))
    rows = []
    for index in range(chunks):
        found.model.zero_grad()
        found.backward(found.load(size, 100 + index))
        rows.append(torch.cat([p.grad.to_dense().flatten() for p in parameters if p.grad is not None]))
    gradients = torch.stack(rows).double()
    assert gradients.shape[1] < SKETCH_WIDTH
    torch.set_rng_state(random)
    for name, buffer in buffers:
        module, _, last = name.rpartition(".")
        setattr(found.model.get_submodule(module), last, buffer)
    measured = measure_chunks(found, size, chunks, seed=100)
    whole = gradients.sum(0)
    assert measured.chunk_size == size
    assert measured.squared_norms == pytest.approx(gradients.square().sum(1).tolist(), rel=1e-5)
    assert measured.inner_products == pytest.approx((gradients @ whole).tolist(), rel=1e-4, abs=1e-5)
    assert measured.sum_squared_norm == pytest.approx(float(whole.square().sum()), rel=1e-5)
    assert sum(measured.inner_products) == pytest.approx(measured.sum_squared_norm, rel=1e-4)


def test_a_model_wider_than_the_sketch_keeps_norms_exact_and_products_close() -> None:
    torch.manual_seed(0)
    wide = trainer(nn.Sequential(nn.Linear(8, 3000), nn.ReLU(), nn.Linear(3000, 3)), (INPUTS, CLASSES))
    measured = measure_chunks(wide, 16, 8, seed=0)
    total = sum(p.numel() for p in wide.model.parameters())
    assert total > 2 * SKETCH_WIDTH
    scale = (max(measured.squared_norms) * measured.sum_squared_norm) ** 0.5
    assert abs(sum(measured.inner_products) - measured.sum_squared_norm) < 0.1 * 8 * scale
    rows = []
    for index in range(8):
        wide.model.zero_grad()
        wide.backward(wide.load(16, index))
        rows.append(torch.cat([p.grad.flatten() for p in wide.model.parameters() if p.grad is not None]))
    gradients = torch.stack(rows).double()
    assert measured.sum_squared_norm == pytest.approx(float(gradients.sum(0).square().sum()), rel=1e-5)
    # A product's error is about |sum g| |g_k| / sqrt(width); six of them are allowed.
    exact = (gradients @ gradients.sum(0)).tolist()
    assert measured.inner_products == pytest.approx(exact, abs=6 * scale / SKETCH_WIDTH**0.5)


@every_model
def test_the_same_seed_gives_the_same_sums(make: Maker) -> None:
    found = made(make)
    one, same_seed, other = (measure_chunks(found, 8, 5, seed) for seed in (7, 7, 70))
    assert one == same_seed
    assert one != other


def test_half_precision_sums_as_well_as_single() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    half = copy.deepcopy(model).bfloat16()
    data = (INPUTS + 0.5, CLASSES)
    exact = measure_chunks(trainer(model, data), 4, 64, seed=0)
    found = measure_chunks(trainer(half, (data[0].bfloat16(), CLASSES)), 4, 64, seed=0)
    assert found.sum_squared_norm == pytest.approx(exact.sum_squared_norm, rel=0.05)
    assert judged(found).batch_size == pytest.approx(judged(exact).batch_size, rel=0.1)


def test_a_failure_puts_everything_back() -> None:
    found = made(with_batch_norm)
    before = state(found)
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        measure_chunks(found, 1, 4, seed=0)
    assert same(before, state(found))
    assert all(p.grad is None for p in found.model.parameters())


def test_a_loop_of_the_users_own_has_no_gradient_to_measure() -> None:
    model = nn.Linear(8, 3)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    found = trainer(model, (INPUTS, CLASSES), step=step)
    with pytest.raises(TargetError) as caught:
        measure_chunks(found, 8, 4, seed=0)
    assert caught.value.code == "no_gradient"


@pytest.mark.parametrize(
    ("make", "expected"), [(with_batch_norm, True), (with_dropout, False), (tied, False)]
)
def test_batch_norm_is_found(make: Maker, expected: bool) -> None:
    assert has_batch_norm(make().model) is expected


def test_the_noise_scale_of_a_linear_model_is_the_analytic_one() -> None:
    """x ~ N(0, I_d), y = x.w* + sigma e, loss (x.w - y)^2 / 2: B_n = (d + 1) + sigma^2 d / |w - w*|^2."""
    features, sigma, distance = 16, 1.0, 1.0
    true = features + 1 + sigma**2 * features / distance**2
    chunk = round(2 * true)
    found = []
    for seed in range(12):
        random = torch.Generator().manual_seed(seed)
        inputs = torch.randn(32 * 1024, features, generator=random)
        weights = torch.randn(features, generator=random)
        away = F.normalize(torch.randn(features, generator=random), dim=0) * distance
        noise = sigma * torch.randn(len(inputs), generator=random)
        model = nn.Linear(features, 1, bias=False)
        model.weight.data = (weights + away)[None]
        data = (inputs, (inputs @ weights + noise)[:, None])
        one = trainer(model, data, loss_fn=lambda output, target: F.mse_loss(output, target) / 2)
        found.append(judged(measure_chunks(one, chunk, 32, seed=100 * seed)).batch_size)
    assert all(one == pytest.approx(true, rel=0.3) for one in found)
    assert sum(found) / len(found) == pytest.approx(true, rel=0.1)


class Rotations(nn.Module):
    """Multiplies pairs of inputs by complex weights, or by the same weights kept as real pairs."""

    def __init__(self, *, as_complex: bool) -> None:
        super().__init__()
        weight = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(torch.view_as_complex(weight) if as_complex else weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.weight if self.weight.is_complex() else torch.view_as_complex(self.weight)
        return (torch.view_as_complex(inputs.reshape(len(inputs), 4, 2)) @ weight).abs()


def test_complex_gradients_count_as_their_two_parts() -> None:
    """jaxopt 169; dadaptation 10: complex weights."""
    of_complex, of_real = (
        measure_chunks(trainer(Rotations(as_complex=as_complex), (INPUTS, CLASSES)), 8, 6, seed=100)
        for as_complex in (True, False)
    )
    assert of_complex.sum_squared_norm == pytest.approx(of_real.sum_squared_norm, rel=1e-5)
    assert of_complex.squared_norms == pytest.approx(of_real.squared_norms, rel=1e-5)
    assert of_complex.inner_products == pytest.approx(of_real.inner_products, rel=1e-4)

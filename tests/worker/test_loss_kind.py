"""The kind of loss on real models: what is no part of a loss must not look like one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset

from autobatch.engines import messages
from autobatch.records.check import LossKind
from autobatch.records.limits import Precision
from autobatch.worker import loss_kind
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer

ROWS = 512
MEAN, SUM, BATCH_DEPENDENT, UNKNOWN = LossKind
INPUTS = torch.randn(ROWS, 12, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(ROWS) * 7 % 5
SCARCE = torch.where(torch.arange(ROWS) % 3 == 0, CLASSES, -100)
RARE = torch.where(torch.arange(ROWS) % 40 == 0, CLASSES, -100)
DATA = (INPUTS, CLASSES)
IMAGES = (torch.randn(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(1)), CLASSES)
VIEWS = (INPUTS, INPUTS + 0.3 * torch.randn(ROWS, 12, generator=torch.Generator().manual_seed(2)))

Loss = Callable[[Any, Any], torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are not worth threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measured(model: nn.Module, dataset: Any = DATA, half_size: int = 16, **parts: Any) -> messages.LossForm:
    samples = open_samples(dataset, parts.get("collate_fn"))
    made = Trainer(Parts(model=model, dataset=dataset, **parts), samples, None, "cpu")
    command = messages.MeasureLossKind(half_size=half_size, most_samples=256, seconds=60.0, seed=3)
    return loss_kind.run(made, Snapshot(made), command)


def kind_of(model: nn.Module, dataset: Any = DATA, **parts: Any) -> LossKind:
    found = measured(model, dataset, **parts)
    assert found.kind is not UNKNOWN, found.detail
    return found.kind


def body(*middle: nn.Module, outputs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), *middle, nn.ReLU(), nn.Linear(16, outputs))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.2)),
        *(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 5)),
    )


class Called(nn.Module):
    """A body, and a function of the body and the inputs, such as the random part of a forward pass."""

    def __init__(self, function: Callable[..., Any], outputs: int = 5) -> None:
        super().__init__()
        self.body = body(outputs=outputs)
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(self.body, *inputs)


def summed(output: Any, target: Any) -> torch.Tensor:
    return F.cross_entropy(output, target, reduction="sum")


def written_by_hand(output: Any, target: Any) -> torch.Tensor:
    return -output.log_softmax(1).gather(1, target[:, None]).sum()


MODELS = {
    "plain": body,
    "layer norm": lambda: body(nn.LayerNorm(16)),
    "dropout": lambda: body(nn.Dropout(0.5)),
    "batch norm": lambda: body(nn.BatchNorm1d(16)),
    "convolutions": convolutions,
    "double": lambda: body().double(),
    "dropout by a function": lambda: Called(lambda own, x: own(F.dropout(x, 0.1))),
    "noise on the inputs": lambda: Called(lambda own, x: own(x + 0.5 * torch.randn_like(x))),
    "own batch norm": lambda: Called(lambda own, x: own((x - x.mean(0)) / x.std(0))),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("loss", "expected"), [(F.cross_entropy, MEAN), (summed, SUM), (written_by_hand, SUM)]
)
def test_the_model_does_not_change_the_kind(name: str, loss: Loss, expected: LossKind) -> None:
    model = MODELS[name]()
    data = IMAGES if name == "convolutions" else DATA
    data = (data[0].double(), data[1]) if name == "double" else data
    assert kind_of(model, data, loss_fn=loss) is expected


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP32])
def test_precision_does_not_change_the_kind(precision: Precision) -> None:
    assert kind_of(body(), precision=precision) is MEAN
    assert kind_of(body(), precision=precision, loss_fn=summed) is SUM


def test_a_mean_over_the_labels_that_count_is_a_mean() -> None:
    assert kind_of(body(), (INPUTS, SCARCE)) is MEAN
    weights = torch.tensor([0.1, 4.0, 1.0, 1.0, 0.5])
    assert kind_of(body(), loss_fn=lambda o, t: F.cross_entropy(o, t, weights)) is MEAN


def test_a_batch_without_any_label_is_followed_by_a_larger_one() -> None:
    assert kind_of(body(), (INPUTS, RARE), half_size=2) is MEAN


def test_a_loss_that_is_never_finite_is_unknown() -> None:
    found = measured(body(), (INPUTS, torch.full((ROWS,), -100)))
    assert found == messages.LossForm(kind=UNKNOWN, detail="the loss is not finite")


def test_two_means_with_weights_of_their_own_are_a_mean() -> None:
    """A mean over labelled samples beside a mean over all, as detectors and language models have them."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target) + output.square().mean()

    assert kind_of(body(), (INPUTS, SCARCE), loss_fn=loss) is MEAN
    assert kind_of(body(), (INPUTS, SCARCE), loss_fn=lambda o, t: len(o) * loss(o, t)) is SUM


@pytest.mark.parametrize("strength", [1e-4, 0.03, 3.0])
@pytest.mark.parametrize(("loss", "expected"), [(F.cross_entropy, MEAN), (summed, SUM)])
def test_a_penalty_on_the_weights_does_not_change_the_kind(
    strength: float, loss: Loss, expected: LossKind
) -> None:
    model = body()

    def penalized(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss(output, target) + strength * sum(p.square().sum() for p in own.parameters())

    def step(module: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal own
        own = module
        return penalized(module(batch[0]), batch[1])

    own: nn.Module = model
    assert kind_of(model, training_step=step) is expected


# Losses that depend on the rest of the batch


def in_batch_negatives(model: nn.Module, batch: Any) -> torch.Tensor:
    left, right = (F.normalize(model(view), dim=1) for view in batch)
    return F.cross_entropy(10 * left @ right.T, torch.arange(len(left)))


def two_views(model: nn.Module, batch: Any) -> torch.Tensor:
    """NT-Xent (Chen et al. 2020)."""
    z = F.normalize(torch.cat([model(view) for view in batch]), dim=1)
    scores = (z @ z.T / 0.2).fill_diagonal_(-torch.inf)
    half = len(z) // 2
    return F.cross_entropy(scores, torch.cat([torch.arange(half, 2 * half), torch.arange(half)]))


def hardest_triplets(model: nn.Module, batch: Any) -> torch.Tensor:
    """The hardest positive and negative of the batch (Hermans et al. 2017)."""
    z = F.normalize(model(batch[0]), dim=1)
    distances = torch.cdist(z, z)
    alike = batch[1][:, None] == batch[1][None]
    farthest = (distances * alike).amax(1)
    nearest = (distances + 10 * alike).amin(1)
    return F.relu(farthest - nearest + 0.5).mean()


def decorrelated(model: nn.Module, batch: Any) -> torch.Tensor:
    """Barlow Twins (Zbontar et al. 2021)."""
    left, right = ((z - z.mean(0)) / z.std(0) for z in map(model, batch))
    correlation = left.T @ right / len(left)
    on = correlation.diagonal()
    return (on - 1).square().sum() + 0.1 * (correlation.square().sum() - on.square().sum())


def summed_negatives(model: nn.Module, batch: Any) -> torch.Tensor:
    return len(batch[0]) * in_batch_negatives(model, batch)


DEPENDENT = [
    (in_batch_negatives, VIEWS),
    (two_views, VIEWS),
    (hardest_triplets, DATA),
    (decorrelated, VIEWS),
    (summed_negatives, VIEWS),
]


@pytest.mark.parametrize(("step", "data"), DEPENDENT, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("name", ["plain", "batch norm", "dropout"])
def test_a_loss_that_compares_samples_depends_on_the_batch(name: str, step: Any, data: Any) -> None:
    """sentence-transformers 2916, 1822; simclr 203: accumulation adds no negatives."""
    assert kind_of(MODELS[name](), data, training_step=step) is BATCH_DEPENDENT


@pytest.mark.parametrize("step", [in_batch_negatives, two_views])
def test_noise_in_the_forward_pass_does_not_hide_the_dependence(step: Any) -> None:
    assert kind_of(MODELS["dropout by a function"](), VIEWS, training_step=step) is BATCH_DEPENDENT


def test_a_triple_that_is_a_sample_is_no_dependence_on_the_batch() -> None:
    def triplets(model: nn.Module, batch: Any) -> torch.Tensor:
        z = model(batch[0])
        return F.triplet_margin_loss(z[0::3], z[1::3], z[2::3])

    assert kind_of(body(), (INPUTS,), half_size=18, training_step=triplets) is MEAN


def test_negatives_of_a_queue_are_no_dependence_on_the_batch() -> None:
    class Queued(nn.Module):
        queue: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body()
            self.register_buffer("queue", F.normalize(torch.randn(64, 5), dim=1))

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            left, right = (F.normalize(self.body(view), dim=1) for view in (left, right))
            scores = torch.cat([(left * right).sum(1, keepdim=True), left @ self.queue.T], 1)
            self.queue = torch.cat([self.queue, right.detach()])[-64:]
            return scores

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(*batch) / 0.2, torch.zeros(len(batch[0]), dtype=torch.long))

    assert kind_of(Queued(), VIEWS, training_step=loss) is MEAN


# Loops that hide their gradient


def stepping(loss: Callable[[nn.Module, Any], torch.Tensor], reports: Callable[[torch.Tensor], Any]) -> Any:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Any:
        value = loss(model, batch)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return reports(value)

    return step


@pytest.mark.parametrize(
    ("loss", "data", "expected"),
    [
        (lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), DATA, MEAN),
        (lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (INPUTS, SCARCE), MEAN),
        (lambda model, batch: summed(model(batch[0]), batch[1]), DATA, SUM),
        (in_batch_negatives, VIEWS, BATCH_DEPENDENT),
    ],
)
@pytest.mark.parametrize("reports", [lambda loss: loss, lambda loss: loss.item()])
@pytest.mark.parametrize("name", ["plain", "batch norm"])
def test_a_step_of_the_users_own_tells_by_its_loss(
    name: str, reports: Any, loss: Any, data: Any, expected: LossKind
) -> None:
    assert kind_of(MODELS[name](), data, step=stepping(loss, reports)) is expected


def test_a_step_that_returns_no_loss_is_unknown() -> None:
    step = stepping(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), lambda loss: None)
    found = measured(body(), step=step)
    assert found == messages.LossForm(kind=UNKNOWN, detail="your `step` returns no loss")


# Samples


class Augmented(Dataset[Any]):
    """Adds noise to each sample when it is read."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        return INPUTS[index] + 0.3 * torch.randn(12), CLASSES[index]


class Boxes(Dataset[Any]):
    """Samples of different sizes, as a detector has them."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        return INPUTS[index : index + 1].expand(1 + index % 3, 12), CLASSES[index]


def test_augmented_samples_are_the_same_on_both_sides() -> None:
    assert kind_of(body(), Augmented()) is MEAN
    assert kind_of(body(), Augmented(), loss_fn=summed) is SUM


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(INPUTS, CLASSES, strict=True)


def test_a_stream_tells_its_kind_of_loss_too() -> None:
    assert kind_of(body(), Stream()) is MEAN
    assert kind_of(body(), Stream(), loss_fn=summed) is SUM


def test_batches_that_can_not_be_cut_are_read_in_halves() -> None:
    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        return torch.stack([F.cross_entropy(model(x), y.expand(len(x))) for x, y in batch]).mean()

    assert kind_of(body(), Boxes(), collate_fn=list, training_step=step) is MEAN


# What stays


def test_weights_buffers_random_state_and_modes_stay() -> None:
    model = nn.Sequential(body(nn.BatchNorm1d(16), nn.Dropout(0.2)))
    made = Trainer(Parts(model=model, dataset=DATA), open_samples(DATA), None, "cpu")
    made.step(made.load(16, 0))
    before = copy.deepcopy((made.model.state_dict(), made.optimizers[0].state_dict()))
    modes = [module.training for module in made.model.modules()]
    random = torch.get_rng_state()
    command = messages.MeasureLossKind(half_size=8, most_samples=64, seconds=60.0, seed=0)
    assert loss_kind.run(made, Snapshot(made), command).kind is MEAN
    after = made.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before[0].items())
    assert made.optimizers[0].state_dict()["param_groups"] == before[1]["param_groups"]
    assert [module.training for module in made.model.modules()] == modes
    norm = next(module for module in made.model.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.momentum == 0.1
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in made.model.parameters())


def test_a_failure_is_told_and_everything_stays() -> None:
    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        if len(batch[0]) == 8:
            raise ValueError("eight is too few")
        return F.cross_entropy(model(batch[0]), batch[1])

    found = measured(body(nn.BatchNorm1d(16)), half_size=8, training_step=step)
    assert found == messages.LossForm(kind=UNKNOWN, detail="ValueError: eight is too few")

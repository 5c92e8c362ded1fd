"""Training steps on every shape of batch, loop and optimizer, and what is inferred or refused."""

from __future__ import annotations

import weakref
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from autobatch.records.errors import TargetError
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.synthetic_samples import SyntheticSamples
from autobatch.workload.trainer import Trainer

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(16) % 3
FLOATS = INPUTS.sum(dim=1)

Pair = namedtuple("Pair", "inputs target")


def trainer(model: Any, dataset: Any, **parts: Any) -> Trainer:
    found = Parts(model=model, dataset=dataset, **parts)
    samples = open_samples(dataset, found.collate_fn)
    return Trainer(found, samples, None, "cpu")


def linear(outputs: int = 3) -> nn.Module:
    return nn.Linear(4, outputs)


def refusal(model: Any, dataset: Any, **parts: Any) -> TargetError:
    """The error of the first step, or of what comes before it."""

    def first_step() -> None:
        made = trainer(model, dataset, **parts)
        made.step(made.load(4, 0))

    with pytest.raises(TargetError) as caught:
        first_step()
    return caught.value


def learns(made: Trainer, steps: int = 30) -> bool:
    """True if the loss of one batch falls under repeated steps."""
    batch = made.load(8, 0)
    first = made.step(batch)
    for _ in range(steps):
        last = made.step(batch)
    assert first is not None
    assert last is not None
    assert made.optimizer_steps == steps + 1
    made.evaluate(batch)
    assert made.model.training
    return float(last) < float(first)


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(torch.cat([left, right], dim=1))
        return found


class OwnLoss(nn.Module):
    """The convention of Hugging Face: labels go in, an output with a loss comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return (
            {"logits": logits}
            if labels is None
            else {"logits": logits, "loss": F.cross_entropy(logits, labels)}
        )


@pytest.mark.parametrize(
    ("model", "dataset", "loss"),
    [
        (linear(), (INPUTS, CLASSES), "cross-entropy"),
        (linear(), (INPUTS, CLASSES[:, None]), "cross-entropy"),
        (linear(1), (INPUTS, FLOATS), "mean squared error"),
        (linear(1), (INPUTS, FLOATS[:, None]), "mean squared error"),
        (linear(1), (INPUTS, FLOATS > 0), "binary cross-entropy"),
        (Named(), (INPUTS, INPUTS, CLASSES), "cross-entropy"),
        (
            Named(),
            [{"left": x, "right": x, "label": y} for x, y in zip(INPUTS, CLASSES, strict=True)],
            "cross-entropy",
        ),
        (OwnLoss(), [{"x": x, "labels": y} for x, y in zip(INPUTS, CLASSES, strict=True)], "the model's own"),
        (linear(), [Pair(x, y) for x, y in zip(INPUTS, CLASSES, strict=True)], "cross-entropy"),
        (
            nn.Sequential(nn.Embedding(3, 8), nn.Linear(8, 3)),
            [(CLASSES[:5], CLASSES[1:6]) for _ in range(16)],
            "cross-entropy",
        ),
    ],
)
def test_losses_that_are_inferred(model: nn.Module, dataset: Any, loss: str) -> None:
    torch.manual_seed(0)
    made = trainer(model, dataset)
    workload = made.describe()
    assert workload.loss == loss
    assert workload.optimizer == "AdamW"
    assert any("AdamW" in guess for guess in workload.inferred)
    assert learns(made)


def test_given_parts_are_used_and_nothing_is_inferred() -> None:
    model = linear(1)
    made = trainer(
        model,
        (INPUTS, FLOATS),
        loss_fn=lambda output, target: F.l1_loss(output.squeeze(1), target),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
    )
    workload = made.describe()
    assert (workload.optimizer, workload.inferred) == ("SGD", ())
    assert learns(made)


def test_a_training_step_of_ones_own_on_nested_batches() -> None:
    samples = [{"data": {"x": x}, "goal": [y]} for x, y in zip(INPUTS, CLASSES, strict=True)]
    made = trainer(
        linear(),
        samples,
        training_step=lambda model, batch: F.cross_entropy(model(batch["data"]["x"]), batch["goal"][0]),
    )
    assert made.describe().loss == "your `training_step`"
    assert learns(made)


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(2, 4)
        self.critic = nn.Linear(4, 1)


def gan_optimizers(model: Gan) -> dict[str, torch.optim.Optimizer]:
    return {
        "generator": torch.optim.Adam(model.generator.parameters()),
        "critic": torch.optim.SGD(model.critic.parameters(), lr=0.01),
    }


def gan_step(model: Gan, optimizers: list[torch.optim.Optimizer], batch: torch.Tensor) -> None:
    generator, critic = optimizers
    fake = model.generator(torch.randn(len(batch), 2))
    critic.zero_grad()
    (model.critic(fake.detach()).mean() - model.critic(batch).mean()).backward()
    critic.step()
    generator.zero_grad()
    (-model.critic(fake).mean()).backward()
    generator.step()


def test_a_loop_with_several_optimizers() -> None:
    made = trainer(Gan(), INPUTS, step=gan_step, make_optimizers=gan_optimizers)
    assert made.describe().optimizer == "Adam and SGD"
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    for _ in range(3):
        assert made.step(made.load(4, 0)) is None
    made.evaluate(made.load(4, 0))
    assert made.optimizer_steps == 6
    after = made.model.state_dict()
    # A mean of differences leaves the critic's bias without a gradient.
    changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
    assert changed == {"generator.weight", "generator.bias", "critic.weight"}


def test_random_inputs_without_targets() -> None:
    parts = Parts(model=linear(), dataset=None)
    made = Trainer(parts, SyntheticSamples((4,), None), None, "cpu")
    workload = made.describe()
    assert workload.synthetic
    assert workload.dataset_size is None
    assert workload.loss == "mean square of the output"
    assert learns(made)


class Short(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from zip(INPUTS[:3], CLASSES[:3], strict=True)


@pytest.mark.parametrize("few", [(INPUTS[:3], CLASSES[:3]), Short()], ids=["mapped", "stream"])
def test_a_small_validation_set_does_not_limit_the_batch(few: Any) -> None:
    found = Parts(model=linear(), dataset=(INPUTS, CLASSES))
    made = Trainer(found, open_samples((INPUTS, CLASSES)), open_samples(few), "cpu")
    assert len(made.load_validation(3, 0)[0]) == 3
    assert len(made.load_validation(8, 0)[0]) == 8
    assert made.dataset_size == 16


@pytest.mark.parametrize(
    ("model", "dataset", "parts", "code", "fact"),
    [
        (linear(), INPUTS, {}, "no_loss", "the batch: float32[1, 4]"),
        (linear(), [(INPUTS[0], "cat")] * 4, {}, "no_loss", ""),
        (linear(5), (INPUTS, INPUTS), {}, "bad_loss", "output: shape (4, 5), torch.float32"),
        (linear(1), (INPUTS, INPUTS.long()), {}, "bad_loss", "output: shape (4, 1), torch.float32"),
        (
            linear(),
            (INPUTS, CLASSES),
            {"loss_fn": nn.CrossEntropyLoss(reduction="none")},
            "bad_loss",
            "a tensor",
        ),
        (linear(), (INPUTS, CLASSES), {"training_step": lambda model, batch: None}, "bad_loss", "NoneType"),
        (nn.ReLU(), (INPUTS, INPUTS), {}, "nothing_to_train", ""),
        (linear(), (INPUTS, CLASSES), {"optimizer": "adam"}, "bad_optimizer", ""),
        (
            linear(),
            (INPUTS, CLASSES),
            {"optimizer": torch.optim.SGD(linear().parameters())},
            "bad_optimizer",
            "import",
        ),
        (
            OwnLoss(),
            [{"x": INPUTS[0], "labels": None}] * 4,
            {"collate_fn": lambda all: all[0]},
            "no_loss",
            "logits",
        ),
    ],
)
def test_refusals(model: nn.Module, dataset: Any, parts: dict[str, Any], code: str, fact: str) -> None:
    error = refusal(model, dataset, **parts)
    assert error.code == code
    assert any(fact in one for one in error.facts) or not fact
    assert error.hint


def test_the_graph_of_a_loss_lives_until_the_next_one() -> None:
    """As in a loop of one's own: on a heap, what fits beside it is another size."""
    graphs: list[weakref.ref[Any]] = []

    def training_step(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, target = batch
        loss = F.cross_entropy(model(inputs), target)
        graphs.append(weakref.ref(loss))
        return loss

    one = trainer(nn.Linear(4, 3), (INPUTS, CLASSES), training_step=training_step)
    batch = one.load(8, 0)
    one.step(batch)
    assert graphs[0]() is not None
    one.step(batch)
    assert graphs[0]() is None
    assert graphs[1]() is not None


@pytest.mark.parametrize(
    ("zero_grad_after_forward", "accumulates"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_gradients_live_as_long_as_in_the_loop_that_is_measured(
    zero_grad_after_forward: bool, accumulates: bool
) -> None:
    """Through an evaluation; where they are zeroed late or accumulate, through the next forward pass too."""
    there: list[tuple[bool, bool]] = []

    class Watching(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            there.append((self.training, self.weight.grad is not None))
            return super().forward(inputs)

    parts = Parts(model=Watching(4, 3), dataset=(INPUTS, CLASSES))
    samples = open_samples((INPUTS, CLASSES))
    made = replace(parts, zero_grad_after_forward=zero_grad_after_forward)
    one = Trainer(made, samples, None, "cpu", accumulates=accumulates)
    batch = one.load(8, 0)
    one.step(batch)
    first = one.model.weight.grad
    one.evaluate(batch)
    one.step(batch)
    assert there == [(True, False), (False, True), (True, zero_grad_after_forward or accumulates)]
    assert (one.model.weight.grad is first) == accumulates


def test_a_step_that_accumulates_trains_like_any_other() -> None:
    weights = []
    for accumulates in (False, True):
        torch.manual_seed(0)
        parts = Parts(model=nn.Linear(4, 3), dataset=(INPUTS, CLASSES))
        one = Trainer(parts, open_samples((INPUTS, CLASSES)), None, "cpu", accumulates=accumulates)
        for seed in range(4):
            one.step(one.load(8, seed))
        weights.append(one.model.weight.detach().clone())
    assert torch.equal(*weights)

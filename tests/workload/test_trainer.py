"""Training steps on every shape of batch, loop and optimizer, and what is inferred or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts
from autobatch.workload.synthetic_samples import SyntheticSamples
from autobatch.workload.trainer import Trainer
from tests.workload.trainings import CLASSES, FLOATS, INPUTS, learns, linear, trainer


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


def test_lazy_layers_have_their_weights_before_they_are_counted() -> None:
    """pytorch/pytorch 83168: lazy modules."""
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    made = trainer(model, (INPUTS, CLASSES), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert made.describe().parameters == 4 * 8 + 8 + 8 + 8 + 8 * 3 + 3
    assert learns(made)


def test_numpy_doubles_go_to_a_model_of_doubles_as_they_are() -> None:
    """pykan 129: doubles from NumPy."""
    made = trainer(linear(1).double(), (INPUTS.double().numpy(), FLOATS.double().numpy()))
    assert made.describe().inferred[0] == "loss: mean squared error, since the target is floating point"
    assert made.load(2, 0)[0].dtype == torch.float64
    assert learns(made)

"""The kind of loss of LightningModules and Keras models, whose loops autobatch does not write."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

from autobatch.engines import messages
from autobatch.records.check import LossKind
from autobatch.worker import loss_kind
from autobatch.workload.dataset import open_samples
from autobatch.workload.lightning.completion import completed
from autobatch.workload.parts import Parts
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer

MEAN, SUM, BATCH_DEPENDENT, UNKNOWN = LossKind
INPUTS = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
DATASET = TensorDataset(INPUTS, torch.arange(256) % 3)


def kind_of(parts: Parts) -> LossKind:
    parts = completed(parts)
    made = Trainer(parts, open_samples(parts.dataset, parts.collate_fn), None, "cpu")
    command = messages.MeasureLossKind(half_size=16, most_samples=64, seconds=60.0, seed=0)
    return loss_kind.run(made, Snapshot(made), command).kind


def mean(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels)


def summed(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, reduction="none").sum()


def compared(output: Tensor, labels: Tensor) -> Tensor:
    z = F.normalize(output, dim=1)
    return F.cross_entropy(5 * z @ z.roll(1, 1).T, torch.arange(len(z)))


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize(
    ("loss_of", "kind"),
    [(mean, MEAN), (summed, SUM), (compared, BATCH_DEPENDENT)],
    ids=["mean", "sum", "batch-dependent"],
)
def test_a_lightning_module(automatic: bool, loss_of: Any, kind: LossKind) -> None:
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.automatic_optimization = automatic
            self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = loss_of(self.body(batch[0]), batch[1])
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self) -> Any:
            return DataLoader(DATASET, batch_size=8)

    assert kind_of(Parts(model=Module())) is kind


@pytest.mark.parametrize(("reduction", "kind"), [("sum_over_batch_size", MEAN), ("sum", SUM)])
@pytest.mark.parametrize("noisy", [False, True])
def test_a_keras_model(reduction: str, kind: LossKind, noisy: bool) -> None:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    middle = [layers.BatchNormalization(), layers.Dropout(0.1)] if noisy else []
    model = keras.Sequential(
        [
            *(layers.Input((6,)), layers.Dense(16, activation="relu", kernel_regularizer="l2")),
            *(*middle, layers.Dense(3)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile("sgd", loss=loss)
    data = INPUTS.numpy(), (np.arange(256) % 3)
    assert kind_of(Parts(model=model, dataset=data)) is kind

"""LightningModules and data modules for tests, and the trainer that a worker makes of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autobatch import AutobatchError
from autobatch.workload.dataset import open_samples
from autobatch.workload.lightning.completion import completed
from autobatch.workload.parts import Parts
from autobatch.workload.trainer import Trainer

ROWS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(48) % 3


DATASET = TensorDataset(ROWS, LABELS)


class Net(pl.LightningModule):
    """A module with dropout, a running buffer and hooks that are told of in `calls`."""

    def __init__(self, lr: float = 0.1, batch_size: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.calls: list[str] = []

    def loss_of(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        rows, labels = batch
        return F.cross_entropy(self.body(rows), labels)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls.append(f"training_step {batch_idx}")
        # The loader of a fit draws a number too, which is not a matter of the step.
        torch.manual_seed(batch_idx)
        loss = self.loss_of(batch)
        self.log("loss", loss, prog_bar=True)
        return {"loss": loss, "rows": batch[0]}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


class Hooked(Net):
    """Overrides every hook of a step, and changes the batch and the gradient in two of them."""

    def on_train_epoch_start(self) -> None:
        self.calls.append("on_train_epoch_start")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls.append("on_after_batch_transfer")
        return [2 * batch[0], batch[1]]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.calls.append(f"on_train_batch_start {batch_idx}")

    def on_after_backward(self) -> None:
        self.calls.append("on_after_backward")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.calls.append("on_before_optimizer_step")
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.clamp_(-0.01, 0.01)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.calls.append(f"on_train_batch_end {batch_idx} {sorted(outputs)} {len(batch[0])}")


class Own(Net):
    """Brings its data along, and builds a layer only when it is set up."""

    def setup(self, stage: str) -> None:
        self.head = nn.Linear(3, 3)

    def train_dataloader(self) -> Any:
        return DataLoader(DATASET, batch_size=self.hparams["batch_size"], num_workers=2)

    def val_dataloader(self) -> Any:
        return [DataLoader(DATASET, batch_size=4), DataLoader(DATASET, batch_size=4)]


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 12) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.done: list[str] = []

    def prepare_data(self) -> None:
        self.done.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.done.append(f"setup {stage}")

    def train_dataloader(self) -> Any:
        return DataLoader(DATASET, batch_size=self.batch_size)


def opened(model: Any, dataset: Any = None, **parts: Any) -> Trainer:
    """What a worker's session makes of the same objects."""
    found = completed(Parts(model=model, dataset=dataset, **parts))
    held = None if found.val_dataset is None else open_samples(found.val_dataset)
    return Trainer(found, open_samples(found.dataset, found.collate_fn), held, "cpu")


# The argument of `fit` that reads a whole checkpoint; before 2.6, Lightning always did.
WHOLE_CHECKPOINT: dict[str, Any] = (
    {"weights_only": False} if "weights_only" in inspect.signature(pl.Trainer.fit).parameters else {}
)


def fit(module: Any, callbacks: Any = (), **options: Any) -> pl.Trainer:
    """A Trainer that has run `fit`; `data` is what it was given beside the module."""
    data = options.pop("data", {"train_dataloaders": DataLoader(DATASET, batch_size=8)})
    options = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False} | options
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=list(callbacks), **options)
    trainer.fit(module, **data)
    return trainer


def refusal(work: Callable[[], Any]) -> AutobatchError:
    with pytest.raises(AutobatchError) as caught:
        work()
    assert caught.value.hint
    return caught.value

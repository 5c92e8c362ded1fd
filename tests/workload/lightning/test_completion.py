"""The parts of a target completed by those of a LightningModule or a data module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autobatch.records.errors import TargetError
from autobatch.workload.dataset import open_samples
from autobatch.workload.lightning.completion import completed
from autobatch.workload.target import load_parts
from autobatch.workload.trainer import Trainer
from tests.workload.lightning.modules import (
    DATASET,
    LABELS,
    ROWS,
    Data,
    Net,
    Own,
    opened,
    refusal,
)


def test_what_a_module_reads_from_its_trainer_and_logger_is_there() -> None:
    class Reading(Own):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            total = self.trainer.estimated_stepping_batches
            self.calls.append(f"{total} steps, {self.trainer.max_epochs} epochs")
            return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=int(total))]

        def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
            self.logger.experiment.add_scalar("step", self.global_step)
            assert self.trainer.training
            assert not self.trainer.sanity_checking
            assert self.current_epoch == 0
            loss = self.loss_of(batch)
            self.log_dict({"loss": loss})
            return loss

    module = Reading()
    made = opened(module, epochs=5.0)
    assert module.calls == ["30 steps, 5 epochs"]
    assert made.step(made.load(4, 0)) is not None


def test_data_of_the_module_of_a_data_module_and_given() -> None:
    own = opened(Own()).describe()
    assert (own.dataset, own.dataset_size, own.batch_size, own.workers) == ("TensorDataset", 48, 8, 2)
    data = Data()
    module = Own()
    other = opened(module, data)
    assert other.describe().batch_size == 12
    assert data.done == ["prepare_data", "setup fit"]
    assert hasattr(module, "head")
    assert other.validation_size is None
    given = opened(Own(), (ROWS[:20], LABELS[:20]))
    assert given.dataset_size == 20
    assert given.validation_size == 48
    assert given.describe().batch_size == 8


def test_objects_that_a_fit_has_set_up_are_not_set_up_again() -> None:
    data = Data()
    made = opened(Net(), data, prepared=True)
    assert data.done == []
    assert made.dataset_size == 48


def test_a_data_module_goes_with_any_model() -> None:
    made = opened(nn.Linear(6, 3), Data(batch_size=5))
    workload = made.describe()
    assert (workload.loss, workload.batch_size, workload.dataset_size) == ("cross-entropy", 5, 48)


def test_what_the_target_gives_itself_is_kept() -> None:
    module = Net()
    made = opened(
        module,
        DATASET,
        loss_fn=F.cross_entropy,
        optimizer=torch.optim.Adagrad(module.parameters()),
        batch_size=3,
    )
    workload = made.describe()
    assert (workload.loss, workload.optimizer, workload.batch_size) == ("cross_entropy", "Adagrad", 3)


@pytest.mark.parametrize("loaders", [{"a": 1}, [1, 2], None])
def test_several_loaders_are_refused(loaders: Any) -> None:
    class Many(Net):
        def train_dataloader(self) -> Any:
            return loaders

    error = refusal(lambda: opened(Many()))
    assert (type(error), error.code) == (TargetError, "not_one_loader")
    assert "Many.train_dataloader()" in error.message


def test_a_file_needs_no_more_than_its_two_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "lightning_file.py"
    source = (
        "import lightning.pytorch as pl, torch\nfrom torch.utils.data import DataLoader\n"
        "class Rows(pl.LightningDataModule):\n"
        "    def train_dataloader(self): return DataLoader([(torch.ones(6), 1)] * 9, batch_size=3)\n"
        "class Net(pl.LightningModule):\n"
        "    def __init__(self):\n        super().__init__()\n        self.body = torch.nn.Linear(6, 3)\n"
        "    def training_step(self, batch):\n"
        "        return torch.nn.functional.cross_entropy(self.body(batch[0]), batch[1])\n"
        "    def configure_optimizers(self): return torch.optim.Adam(self.parameters(), lr=0.5)\n"
    )
    path.write_text(source)
    parts = completed(load_parts(str(path)))
    made = Trainer(parts, open_samples(parts.dataset), None, "cpu")
    del sys.modules["lightning_file"]
    workload = made.describe()
    assert (workload.model, workload.dataset_size, workload.batch_size) == ("Net", 9, 3)
    assert (workload.optimizer, workload.learning_rate) == ("Adam", 0.5)

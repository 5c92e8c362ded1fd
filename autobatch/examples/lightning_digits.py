"""A small network on scikit-learn's 1,797 handwritten digits, written for Lightning.

Find its batch size, or train an epoch at the batch size that AutoBatch sets before the training:

    autobatch probe autobatch.examples.lightning_digits
    python -m autobatch.examples.lightning_digits --epochs 1
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

try:
    import lightning.pytorch as pl
    from sklearn.datasets import load_digits
except ImportError as error:
    raise ImportError(
        "this example needs Lightning and scikit-learn: pip install lightning scikit-learn"
    ) from error

VALIDATION_SAMPLES = 360
SPLIT_SEED = 0


class Digits(pl.LightningDataModule):
    """The digits as vectors of 64 pixels from 0 to 1: 1,437 to train on, 360 to validate with."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        pixels, digits = load_digits(return_X_y=True)
        images = torch.as_tensor(pixels, dtype=torch.float32).div(16)
        labels = torch.as_tensor(digits, dtype=torch.int64)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        val, train = order[:VALIDATION_SAMPLES], order[VALIDATION_SAMPLES:]
        self.train_set = TensorDataset(images[train], labels[train])
        self.val_set = TensorDataset(images[val], labels[val])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val_set, batch_size=self.batch_size)


class DigitsNet(pl.LightningModule):
    """A network of 43,000 parameters: images (N, 64) in, logits (N, 10) out."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 96), nn.ReLU())
        self.head = nn.Linear(96, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("val_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, digits = batch
        return F.cross_entropy(self(images), digits)


def main() -> None:
    from autobatch.integrations.lightning import AutoBatch

    parser = argparse.ArgumentParser(description="Measures a batch size, then trains with it.")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()

    pl.seed_everything(0)
    autobatch = AutoBatch(learning_rate=True)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        callbacks=[autobatch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(DigitsNet(), datamodule=Digits())
    recommendation = autobatch.recommendation
    assert recommendation is not None
    print(f"batch size {recommendation.batch_size}: {recommendation.why}")
    print(f"validation loss {float(trainer.callback_metrics['val_loss']):.3f}")


if __name__ == "__main__":
    main()

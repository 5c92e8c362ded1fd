"""The batch size of another finder under the same limit: `python -m on_gpu_parts.peers PEER TARGET`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from on_gpu_parts.survive import Training

# accelerate halves the largest; Lightning doubles the smallest.
LARGEST, SMALLEST = 8192, 2
STEPS = 3


def accelerate(training: Training) -> int:
    from accelerate.utils import find_executable_batch_size

    def attempt(batch_size: int) -> int:
        training.run(batch_size, STEPS)
        return batch_size

    return int(find_executable_batch_size(starting_batch_size=LARGEST)(attempt)())


def lightning(training: Training) -> int | None:
    """Lightning's `Tuner.scale_batch_size` with its default arguments."""
    import lightning.pytorch as pl
    from lightning.pytorch.tuner.tuning import Tuner

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.batch_size = SMALLEST
            self.model = training.model

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return training.loss(*batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return training.make_optimizer()

        def train_dataloader(self) -> Any:
            samples = TensorDataset(*training.samples(LARGEST))
            return DataLoader(samples, batch_size=self.batch_size)

    trainer = pl.Trainer(accelerator="cuda", devices=1, logger=False, enable_checkpointing=False)
    return Tuner(trainer).scale_batch_size(Module())


def main() -> None:
    find = {"accelerate": accelerate, "lightning": lightning}[sys.argv[1]]
    training = Training(sys.argv[2])
    begin = time.monotonic()
    batch_size = find(training)
    print(json.dumps({"batch_size": batch_size, "seconds": round(time.monotonic() - begin, 1)}))


if __name__ == "__main__":
    main()

"""Lightning: modules and data modules as targets, and the callback that measures before a fit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from autobatch import Limits
from autobatch.examples.lightning_digits import Digits, DigitsNet
from autobatch.integrations.lightning import AutoBatch
from autobatch.integrations.lightning_fit import Fit
from autobatch.records.limits import Precision
from tests.workload.lightning.modules import (
    DATASET,
    LABELS,
    ROWS,
    WHOLE_CHECKPOINT,
    Net,
    Own,
    fit,
    refusal,
)


@pytest.fixture(autouse=True)
def _filters_kept() -> Any:
    """What silences Lightning in a worker must not silence it in the other tests."""
    with warnings.catch_warnings():
        yield


class Losses(Callback):
    """The loss of each step, and the random state at its start."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.states: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        state = torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())
        self.states.append(hash(state))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.seen.append(float(outputs["loss"]))


class Heeds(DigitsNet):
    """Draws random numbers in its steps, and makes a schedule of the number of steps."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__(lr)
        self.body.append(nn.Dropout(0.2))

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=total)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def seeded_fit(module: Any, data: Any, callbacks: list[Any], **options: Any) -> tuple[pl.Trainer, Losses]:
    losses = Losses()
    pl.seed_everything(7)
    return fit(module, [*callbacks, losses], data={"datamodule": data}, **options), losses


def test_a_fit_with_the_callback_is_the_fit_at_its_batch_size(tmp_path: Path) -> None:
    """Bit for bit, random states included; and a checkpoint goes on with the size, without measuring."""
    torch.manual_seed(0)
    weights = Heeds().state_dict()
    module, data = Heeds(), Digits(batch_size=16)
    module.load_state_dict(weights)
    tuned = AutoBatch(Limits(min_batch=32, max_batch=64, budget_seconds=600), learning_rate=True)
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer, losses = seeded_fit(module, data, [tuned], logger=logger)
    found = tuned.recommendation
    assert found is not None
    assert found.batch_size in (32, 64)
    assert (found.workload.batch_size, found.workload.epochs) == (16, 1.0)
    assert (found.workload.loss, found.workload.optimizer) == ("your `training_step`", "AdamW")
    assert found.workload.learning_rate == 2e-3
    assert data.batch_size == found.batch_size
    assert found.learning_rate_factor is not None
    assert module.hparams["lr"] == 2e-3 * found.learning_rate_factor
    assert logger.experiment.hparams["autobatch/batch_size"] == found.batch_size
    assert logger.experiment.hparams["lr"] == module.hparams["lr"]

    plain = Heeds(lr=module.hparams["lr"])
    plain.load_state_dict(weights)
    _, expected = seeded_fit(plain, Digits(found.batch_size), [], logger=pl.loggers.CSVLogger(tmp_path))
    assert losses.seen == expected.seen
    assert losses.states == expected.states
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in module.state_dict().items())

    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again, later = AutoBatch(), Digits(batch_size=16)
    resumed = {"datamodule": later, "ckpt_path": str(tmp_path / "half.ckpt"), **WHOLE_CHECKPOINT}
    fit(Heeds(), [again], data=resumed)
    assert again.recommendation is None
    assert later.batch_size == found.batch_size


def test_a_loader_given_to_fit_is_made_again_and_gradients_are_accumulated() -> None:
    losses = Losses()
    tuned = AutoBatch(
        Limits(min_batch=4, max_batch=4, global_batch=12, budget_seconds=3, check=False), learning_rate=False
    )
    loader = DataLoader(DATASET, batch_size=6, shuffle=True, drop_last=True, collate_fn=stacked)
    options = {"accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    trainer = fit(Net(), [tuned, losses], data={"train_dataloaders": loader}, **options)
    found = tuned.recommendation
    assert found is not None
    assert found.workload.precision is Precision.BF16
    assert (found.batch_size, found.accumulation_steps, found.workload.batch_size) == (4, 3, 12)
    made = trainer.train_dataloader
    assert (made.batch_size, made.drop_last, made.collate_fn) == (4, True, stacked)
    assert made.sampler is loader.sampler
    assert (len(losses.seen), trainer.global_step) == (12, 4)


class Scaling(Net):
    """Derives its learning rate from the batch size."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"] * self.hparams["batch_size"])


def test_a_rate_that_the_module_derives_from_the_batch_size_is_not_scaled_twice() -> None:
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    module = Scaling(lr=0.01, batch_size=8)
    module.trainer = trainer
    trainer.strategy.connect(module)
    trainer.strategy.setup_optimizers(trainer)
    trainer.fit_loop._data_source.instance = module
    found = Fit(trainer, module, "batch_size")
    found.set_sizes(32, 1)
    assert found.scale_rate("lr", 2.0)
    (group,) = trainer.optimizers[0].param_groups
    assert group["lr"] == pytest.approx(2.0 * 0.01 * 8)


def test_a_training_of_some_steps_keeps_its_samples() -> None:
    """Without epochs, the steps are restated for the measured size."""
    tuned = AutoBatch(Limits(min_batch=12, max_batch=12, budget_seconds=3, check=False))
    loader = DataLoader(DATASET, batch_size=6, drop_last=True, collate_fn=stacked)
    options = {"max_steps": 10, "max_epochs": -1}
    trainer = fit(Net(), [tuned], data={"train_dataloaders": loader}, **options)
    found = tuned.recommendation
    assert found is not None
    assert found.workload.counted_in_steps
    assert found.workload.epochs == 10 * 6 / len(DATASET)
    assert found.limits.keep_learning_rate
    assert (found.batch_size, trainer.global_step) == (12, 5)


@pytest.mark.slow
def test_accumulated_gradients_keep_their_samples_in_fewer_batches() -> None:
    tuned = AutoBatch(Limits(max_batch=12, budget_seconds=6, check=False))
    loader = DataLoader(DATASET, batch_size=3, drop_last=True, collate_fn=stacked)
    trainer = fit(Net(), [tuned], data={"train_dataloaders": loader}, accumulate_grad_batches=4)
    found = tuned.recommendation
    assert found is not None
    assert (found.workload.batch_size, found.workload.accumulation_steps) == (12, 4)
    assert found.global_batch_size == 12
    assert trainer.accumulate_grad_batches * trainer.train_dataloader.batch_size == 12


def stacked(samples: list[Any]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*samples, strict=True)]


class Deaf(Digits):
    """Keeps a batch size, and uses another."""

    def train_dataloader(self) -> Any:
        return DataLoader(self.train_set, batch_size=20)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no attribute": (lambda: fit(Own(), [AutoBatch(attribute="size")], data={}), "no_attribute"),
    "no rate": (lambda: fit(Own(), [AutoBatch(learning_rate="rate")], data={}), "no_attribute"),
    "fixed loader": (
        lambda: fit(
            Net(),
            [AutoBatch()],
            data={
                "train_dataloaders": DataLoader(
                    DATASET, batch_sampler=Halves(SequentialSampler(DATASET), 4, False)
                )
            },
        ),
        "fixed_loader",
    ),
    "no DataLoader": (
        lambda: fit(Net(), [AutoBatch()], data={"train_dataloaders": [(ROWS, LABELS)]}),
        "fixed_loader",
    ),
    "schedule": (
        lambda: fit(Own(), [AutoBatch(), GradientAccumulationScheduler({0: 2})], data={}),
        "accumulation_schedule",
    ),
}


class Halves(BatchSampler):
    pass


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_t_be_set_is_refused_before_anything_is_measured(case: str) -> None:
    work, code = REFUSED[case]
    assert refusal(work).code == code


def test_nothing_is_measured_where_nothing_is_trained() -> None:
    tuned = AutoBatch()
    fit(Own(), [tuned], data={}, fast_dev_run=True)
    assert tuned.recommendation is None
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[tuned], enable_progress_bar=False)
    digits = DigitsNet()
    trainer.validate(digits, datamodule=Digits(batch_size=360), verbose=False)
    assert tuned.recommendation is None


def test_a_checkpoint_without_a_measured_size_keeps_the_training_s_own(tmp_path: Path) -> None:
    fit(Own(), data={}).save_checkpoint(tmp_path / "plain.ckpt")
    tuned = AutoBatch()
    resumed = {"ckpt_path": str(tmp_path / "plain.ckpt"), **WHOLE_CHECKPOINT}
    with pytest.warns(UserWarning, match="knows of no batch size"):
        fit(Own(), [tuned], data=resumed, max_epochs=2)
    assert tuned.recommendation is None


def test_a_size_that_the_loader_ignores_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "measured.ckpt"
    fit(DigitsNet(), data={"datamodule": Digits(360)}).save_checkpoint(path)
    kept = torch.load(path, weights_only=False)
    kept["callbacks"]["AutoBatch"] = {"batch_size": 4, "accumulation_steps": 1}
    torch.save(kept, path)
    resumed = {"datamodule": Deaf(32), "ckpt_path": str(path), **WHOLE_CHECKPOINT}
    error = refusal(lambda: fit(DigitsNet(), [AutoBatch()], data=resumed, max_epochs=2))
    assert error.code == "batch_size_ignored"
    assert "batch size 20, although 4" in error.message


@pytest.mark.slow
def test_the_example_on_the_command_line() -> None:
    command = [sys.executable, "-m", "autobatch", "probe", "autobatch.examples.lightning_digits", "--json"]
    ended = subprocess.run(
        [*command, "--budget", "8s", "--max-batch", "64"], capture_output=True, text=True, check=True
    )
    told = json.loads(ended.stdout)
    assert told["workload"]["model"] == "DigitsNet"
    assert (told["workload"]["batch_size"], told["workload"]["learning_rate"]) == (32, 2e-3)
    assert told["check"]["critical_batch_size"] is not None
    # Nobody has asked for Lightning's remarks on a Trainer that is none of theirs.
    assert ended.stderr == ""


@pytest.mark.slow
def test_the_example_trains_with_the_callback() -> None:
    command = [sys.executable, "-m", "autobatch.examples.lightning_digits", "--epochs", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "batch size " in ended.stdout
    assert "validation loss " in ended.stdout


RANKS = """
import lightning.pytorch as pl
from autobatch import Limits
from autobatch.integrations.lightning import AutoBatch
from autobatch.examples.lightning_digits import Digits, DigitsNet

if __name__ == "__main__":
    tuned = AutoBatch(Limits(global_batch=64, max_batch=32, budget_seconds=4, check=False))
    trainer = pl.Trainer(
        max_steps=3, accelerator="cpu", devices=2, strategy="ddp", logger=False, callbacks=[tuned],
        enable_progress_bar=False, enable_checkpointing=False,
    )
    trainer.fit(DigitsNet(), datamodule=Digits())
    found = tuned.recommendation
    sizes = found.batch_size, found.accumulation_steps, trainer.train_dataloader.batch_size
    with open(f"rank{trainer.global_rank}", "w") as file:
        print(sizes, trainer.accumulate_grad_batches, file=file)
"""


@pytest.mark.slow
def test_two_ranks_train_with_what_one_of_them_measured(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    subprocess.run([sys.executable, "ranks.py"], cwd=tmp_path, capture_output=True, check=True)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["(32, 1, 32) 1\n"] * 2

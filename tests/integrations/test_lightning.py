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
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from autobatch import AutobatchError, Limits
from autobatch.examples.lightning_digits import Digits, DigitsNet
from autobatch.integrations.lightning import AutoBatch
from autobatch.integrations.lightning_fit import Fit
from autobatch.records.errors import TargetError, UsageError
from autobatch.records.limits import Precision
from autobatch.worker.session_setup import in_precision
from autobatch.workload.dataset import open_samples
from autobatch.workload.lightning.completion import completed
from autobatch.workload.lightning.detection import detached
from autobatch.workload.parts import Parts
from autobatch.workload.target import load_parts
from autobatch.workload.trainer import Trainer

ROWS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % 3
DATASET = TensorDataset(ROWS, LABELS)


@pytest.fixture(autouse=True)
def _filters_kept() -> Any:
    """What silences Lightning in a worker must not silence it in the other tests."""
    with warnings.catch_warnings():
        yield


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


@pytest.mark.parametrize("kind", [Net, Hooked])
def test_measured_steps_are_the_steps_of_a_fit(kind: type[Net]) -> None:
    """Bit for bit: weights, buffers, and the order of the hooks."""
    torch.manual_seed(0)
    module, same = kind(), kind()
    same.load_state_dict(module.state_dict())
    fit(module)
    made = opened(same, DATASET)
    for start in range(0, 48, 8):
        made.step(made.load_rows(range(start, start + 8)))
    for name, value in module.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert same.calls == module.calls
    assert made.optimizer_steps == 6


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "optimizer": lambda one: one,
    "list": lambda one: [one],
    "two lists": lambda one: ([one], [torch.optim.lr_scheduler.StepLR(one, 1)]),
    "dict": lambda one: {"optimizer": one},
    "dict with scheduler": lambda one: {
        "optimizer": one,
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(one, 1),
    },
    "warm-up": lambda one: ([one], [torch.optim.lr_scheduler.LambdaLR(one, lambda step: step / 100)]),
    "one cycle": lambda one: {
        "optimizer": one,
        "lr_scheduler": {
            "scheduler": torch.optim.lr_scheduler.OneCycleLR(one, 0.1, total_steps=50),
            "interval": "step",
        },
    },
}


@pytest.mark.parametrize("form", SCHEDULES)
def test_every_form_of_configure_optimizers(form: str) -> None:
    class Formed(Net):
        def configure_optimizers(self) -> Any:
            return SCHEDULES[form](super().configure_optimizers())

    made = opened(Formed(), DATASET)
    workload = made.describe()
    # A warm-up's first rate is near zero: trainings with it would say that no size learns.
    assert (workload.optimizer, workload.learning_rate) == ("SGD", 0.1)
    assert workload.loss == "your `training_step`"
    scheduled = form not in ("optimizer", "list", "dict")
    assert any("schedule" in one for one in workload.inferred) == scheduled
    made.step(made.load(4, 0))
    assert made.optimizer_steps == 1


def test_several_optimizers_without_manual_optimization_are_lightnings_own_error() -> None:
    class Several(Net):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.Adam(self.parameters())]

    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual"):
        opened(Several(), DATASET)


class Manual(Net):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.body[0].parameters(), lr=0.1), torch.optim.Adam(self.body[3].parameters())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = self.loss_of(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)


def test_manual_optimization_runs_as_a_loop_of_its_own() -> None:
    torch.manual_seed(0)
    module, same = Manual(), Manual()
    same.load_state_dict(module.state_dict())
    fit(module)
    made = opened(same, DATASET)
    for start in range(0, 48, 8):
        made.step(made.load_rows(range(start, start + 8)))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in module.state_dict().items())
    assert made.optimizer_steps == 12
    assert made.describe().optimizer == "SGD and Adam"
    assert "gradients to itself" in made.why_no_check


def test_a_precision_can_t_be_asked_of_manual_optimization() -> None:
    found = [completed(Parts(model=kind(), dataset=DATASET)) for kind in (Own, Manual)]
    assert in_precision(found[0], Precision.BF16).precision is Precision.BF16
    with pytest.raises(UsageError, match="a `step` of your own"):
        in_precision(found[1], Precision.BF16)


def eval_loss(module: Any, batch: Any) -> float:
    module.eval()
    with torch.no_grad():
        loss = float(module.loss_of(batch))
    module.train()
    return loss


def test_a_loss_that_validation_step_returns_is_judged_by() -> None:
    class Judged(Own):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": 3 * self.loss_of(batch)}

    made = opened(Judged())
    batch = made.load_validation(8, 0)
    assert float(made.evaluate(batch)) == pytest.approx(3 * eval_loss(made.model, batch))  # type: ignore[arg-type]
    assert made.model.training


def test_where_validation_step_only_logs_the_training_loss_is_taken_without_dropout() -> None:
    class Logging(Own):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss_of(batch))
            self.calls.append("validation_step")

    module = Logging()
    made = opened(module)
    batch = made.load_validation(8, 0)
    for _ in range(3):
        assert float(made.evaluate(batch)) == pytest.approx(eval_loss(module, batch))  # type: ignore[arg-type]
    assert module.calls.count("validation_step") == 1


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


def test_steps_that_are_replaced_are_named() -> None:
    class Replaced(Net):
        def configure_gradient_clipping(self, *arguments: Any, **options: Any) -> None: ...

    (remark,) = opened(Replaced(), DATASET).describe().inferred
    assert "`configure_gradient_clipping`" in remark


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


def test_a_data_module_is_sent_without_its_trainer() -> None:
    data = Data()
    fit(Net(), data={"datamodule": data})
    alone = detached(data)
    assert data.trainer is not None
    assert alone.trainer is None
    assert alone.done is data.done
    assert detached(DATASET) is DATASET


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
    tuned = AutoBatch(Limits(min_batch=32, max_batch=64, budget_seconds=60), learning_rate=True)
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
    resumed = {"datamodule": later, "ckpt_path": str(tmp_path / "half.ckpt"), "weights_only": False}
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
    resumed = {"ckpt_path": str(tmp_path / "plain.ckpt"), "weights_only": False}
    with pytest.warns(UserWarning, match="knows of no batch size"):
        fit(Own(), [tuned], data=resumed, max_epochs=2)
    assert tuned.recommendation is None


def test_a_size_that_the_loader_ignores_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "measured.ckpt"
    fit(DigitsNet(), data={"datamodule": Digits(360)}).save_checkpoint(path)
    kept = torch.load(path, weights_only=False)
    kept["callbacks"]["AutoBatch"] = {"batch_size": 4, "accumulation_steps": 1}
    torch.save(kept, path)
    resumed = {"datamodule": Deaf(32), "ckpt_path": str(path), "weights_only": False}
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

"""Completes the parts of a target by those of a LightningModule: data, steps, optimizers.

In the worker the module gets a Trainer that never runs: modules read from it, and log to it.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from importlib import import_module
from math import ceil
from typing import Any

from torch.utils.data import DataLoader, Dataset

from autobatch.records.errors import TargetError
from autobatch.workload.data_loader import settings_of
from autobatch.workload.lightning.detection import framework_of, frameworks_in_use, is_datamodule, overrides
from autobatch.workload.lightning.steps import Steps
from autobatch.workload.parts import Parts
from autobatch.workload.sampling import batch_size_of

# Lightning's default.
_EPOCHS = 1000


def completed(parts: Parts) -> Parts:
    """The parts, completed by those of a LightningModule or a LightningDataModule if there is one.

    Data, loss, loop and optimizer that the target names are kept. Modules and data modules are set up as for
    `fit`, unless the sender has done so (`prepared`). Raises TargetError, and the errors of their hooks.
    """
    if not frameworks_in_use():
        return parts
    model = parts.make_model()
    parts = replace(parts, model=model)
    framework = framework_of(model)
    if framework is None:
        return _with_data(parts, None) if is_datamodule(parts.dataset) else parts
    trainer = _idle_trainer(framework, parts)
    _attach(trainer, model, parts.dataset)
    parts = _with_data(parts, model)
    has_loop = parts.step or parts.training_step or parts.loss_fn
    if has_loop or not overrides(model, "training_step"):
        return parts
    return _with_steps(parts, Steps(model, trainer, parts))


def _idle_trainer(framework: Any, parts: Parts) -> Any:
    """A bare Trainer in the state of training, for which `self.log` does nothing."""
    _silence(framework)
    states = import_module(f"{framework.__name__}.trainer.states")
    plugins = import_module(f"{framework.__name__}.plugins.environments")
    loggers = import_module(f"{framework.__name__}.loggers.logger")
    max_steps = next((count.steps for count in parts.schedule if count.name == "max_steps"), -1)
    max_epochs = ceil(parts.epochs or _EPOCHS) if max_steps < 0 or parts.epochs else -1
    trainer = framework.Trainer(
        barebones=True,
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        max_steps=max_steps,
        # The environment of a cluster or of torchrun must not make this a distributed Trainer.
        plugins=[plugins.LightningEnvironment()],
    )
    trainer.loggers = [loggers.DummyLogger()]
    trainer.state.fn = states.TrainerFn.FITTING
    trainer.training = True
    return trainer


def _silence(framework: Any) -> None:
    """Silences Lightning's remarks on a Trainer that the user has not made."""
    logging.getLogger(framework.__name__).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*barebones=True")
    rank_zero = import_module(f"{framework.__name__}.utilities.rank_zero")
    category = getattr(rank_zero, "PossibleUserWarning", None)
    if category is not None:
        warnings.filterwarnings("ignore", category=category)


def _attach(trainer: Any, model: Any, data: Any) -> None:
    """Connects module, data and Trainer, as in the first lines of `fit`."""
    if isinstance(data, Dataset):
        data = DataLoader(data)
    loader = data if isinstance(data, DataLoader) else None
    datamodule = data if is_datamodule(data) else None
    trainer.strategy.connect(model)
    trainer._data_connector.attach_data(model, train_dataloaders=loader, datamodule=datamodule)


def _with_data(parts: Parts, module: Any) -> Parts:
    """The parts with the loaders of the data module or the module, where no data set is given."""
    datamodule = parts.dataset if is_datamodule(parts.dataset) else None
    if not parts.prepared:
        _set_up(datamodule, module)
    source = datamodule or module
    val_dataset = parts.val_dataset
    if val_dataset is None and overrides(source, "val_dataloader"):
        val_dataset = _first_loader(source.val_dataloader())
    if parts.dataset is not None and datamodule is None:
        batch_size = parts.batch_size_with(_batch_size_of(module))
        return replace(parts, val_dataset=val_dataset, batch_size=batch_size)
    if not overrides(source, "train_dataloader"):
        # The error for missing data says what to add.
        return replace(parts, dataset=None)
    train = _only_loader(source.train_dataloader(), f"{type(source).__name__}.train_dataloader()")
    return replace(
        parts,
        dataset=train,
        loader=settings_of(train),
        val_dataset=val_dataset,
        batch_size=parts.batch_size_with(batch_size_of(train) or _batch_size_of(module, datamodule)),
    )


def _set_up(datamodule: Any, module: Any) -> None:
    """Calls the hooks that Lightning calls before it makes the optimizers, in its order."""
    both = [owner for owner in (datamodule, module) if owner is not None]
    for owner in both:
        owner.prepare_data()
    for owner in both:
        owner.setup("fit")
    if module is not None:
        module.configure_model()


def _only_loader(loaders: Any, name: str) -> DataLoader[Any]:
    loader = loaders[0] if isinstance(loaders, (list, tuple)) and len(loaders) == 1 else loaders
    if isinstance(loader, DataLoader):
        return loader
    raise TargetError(
        f"`{name}` returned a {type(loader).__name__}, not one DataLoader",
        code="not_one_loader",
        facts=("the batches of several loaders have several sizes",),
        hint="give the data set to measure with as `dataset = ...`, or as the second argument of `find`",
    )


def _first_loader(loaders: Any) -> DataLoader[Any] | None:
    """The first of several validation loaders: its samples are enough to judge on."""
    first = loaders[0] if isinstance(loaders, (list, tuple)) and loaders else loaders
    return first if isinstance(first, DataLoader) else None


def _batch_size_of(*owners: Any) -> int | None:
    """The `batch_size` of a module or a data module, or of their hyperparameters."""
    for owner in owners:
        for value in (getattr(owner, "batch_size", None), getattr(owner, "hparams", {}).get("batch_size")):
            if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
                return value
    return None


def _with_steps(parts: Parts, steps: Steps) -> Parts:
    if not steps.automatic:
        # Its `self.optimizers()` always come from `configure_optimizers`.
        return replace(parts, step=steps.step, make_optimizers=steps.make_optimizers, remarks=steps.remarks)
    return replace(
        parts,
        training_step=steps.training_step,
        evaluation_step=steps.evaluation_step,
        zero_grad_after_forward=True,
        make_optimizers=steps.make_optimizers if parts.optimizer is None else None,
        remarks=steps.remarks,
    )

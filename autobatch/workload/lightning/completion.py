"""What a LightningModule brings along, as parts of a target: its data, its steps, its optimizers.

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

# Lightning's own default.
_EPOCHS = 1000


def completed(parts: Parts) -> Parts:
    """The parts with what a LightningModule or a LightningDataModule adds; others come back as they are.

    What the target names itself is kept: data, loss, loop, optimizer. Modules and data modules are set up as
    for `fit`, unless they have been already (`prepared`). Raises TargetError, and what their hooks raise.
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
    own_loop = parts.step or parts.training_step or parts.loss_fn
    if own_loop or not overrides(model, "training_step"):
        return parts
    return _with_steps(parts, Steps(model, trainer, parts))


def _idle_trainer(framework: Any, parts: Parts) -> Any:
    """A Trainer in the state of training. It is a bare one, to which `self.log` says nothing."""
    _silence(framework)
    states = import_module(f"{framework.__name__}.trainer.states")
    plugins = import_module(f"{framework.__name__}.plugins.environments")
    loggers = import_module(f"{framework.__name__}.loggers.logger")
    max_steps = next((one.steps for one in parts.schedule if one.name == "max_steps"), -1)
    max_epochs = ceil(parts.epochs or _EPOCHS) if max_steps < 0 or parts.epochs else -1
    trainer = framework.Trainer(
        barebones=True,
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        max_steps=max_steps,
        # A cluster's environment, or that of torchrun, must not make this one of many processes.
        plugins=[plugins.LightningEnvironment()],
    )
    trainer.loggers = [loggers.DummyLogger()]
    trainer.state.fn = states.TrainerFn.FITTING
    trainer.training = True
    return trainer


def _silence(framework: Any) -> None:
    """Keeps Lightning's remarks on the Trainer made here, which nobody has asked for, to itself."""
    logging.getLogger(framework.__name__).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*barebones=True")
    rank_zero = import_module(f"{framework.__name__}.utilities.rank_zero")
    category = getattr(rank_zero, "PossibleUserWarning", None)
    if category is not None:
        warnings.filterwarnings("ignore", category=category)


def _attach(trainer: Any, model: Any, data: Any) -> None:
    """Lets module, data and Trainer know each other, as in the first lines of `fit`."""
    if isinstance(data, Dataset):
        data = DataLoader(data)
    loader = data if isinstance(data, DataLoader) else None
    datamodule = data if is_datamodule(data) else None
    trainer.strategy.connect(model)
    trainer._data_connector.attach_data(model, train_dataloaders=loader, datamodule=datamodule)


def _with_data(parts: Parts, module: Any) -> Parts:
    """The parts with the loaders of the data module, else of the module, where no data set is given."""
    datamodule = parts.dataset if is_datamodule(parts.dataset) else None
    if not parts.prepared:
        _set_up(datamodule, module)
    source = datamodule or module
    held = parts.val_dataset
    if held is None and overrides(source, "val_dataloader"):
        held = _first_loader(source.val_dataloader())
    if parts.dataset is not None and datamodule is None:
        return replace(parts, val_dataset=held, batch_size=parts.batch_size or _present(module))
    if not overrides(source, "train_dataloader"):
        # The error for missing data says what to add.
        return replace(parts, dataset=None)
    train = _only_loader(source.train_dataloader(), f"{type(source).__name__}.train_dataloader()")
    return replace(
        parts,
        dataset=train,
        loader=settings_of(train),
        val_dataset=held,
        batch_size=parts.batch_size or train.batch_size or _present(module, datamodule),
    )


def _set_up(datamodule: Any, module: Any) -> None:
    """Calls what Lightning calls before it makes the optimizers, in its order."""
    both = [one for one in (datamodule, module) if one is not None]
    for one in both:
        one.prepare_data()
    for one in both:
        one.setup("fit")
    if module is not None:
        module.configure_model()


def _only_loader(found: Any, name: str) -> DataLoader[Any]:
    if isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]
    if isinstance(found, DataLoader):
        return found
    raise TargetError(
        f"`{name}` returned a {type(found).__name__}, not one DataLoader",
        code="not_one_loader",
        facts=("the batches of several loaders have several sizes",),
        hint="give the data set to measure with as `dataset = ...`, or as the second argument of `find`",
    )


def _first_loader(found: Any) -> DataLoader[Any] | None:
    """Of several validation loaders, the first: what it holds is enough to judge on."""
    first = found[0] if isinstance(found, (list, tuple)) and found else found
    return first if isinstance(first, DataLoader) else None


def _present(*memory_users: Any) -> int | None:
    """The `batch_size` of a module or a data module, or of their hyperparameters."""
    for holder in memory_users:
        for value in (getattr(holder, "batch_size", None), getattr(holder, "hparams", {}).get("batch_size")):
            if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
                return value
    return None


def _with_steps(parts: Parts, steps: Steps) -> Parts:
    if not steps.automatic:
        # Its `self.optimizers()` are those of `configure_optimizers` in any case.
        return replace(parts, step=steps.step, make_optimizers=steps.make_optimizers, remarks=steps.remarks)
    return replace(
        parts,
        training_step=steps.training_step,
        evaluation_step=steps.evaluation_step,
        zero_grad_after_forward=True,
        make_optimizers=steps.make_optimizers if parts.optimizer is None else None,
        remarks=steps.remarks,
    )

"""Reads a training from a user's file or module, by the names that people give its parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import log2
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from autobatch.records.errors import AutobatchError, TargetError
from autobatch.records.formatting import parse_precision
from autobatch.records.limits import Precision
from autobatch.workload.data_loader import settings_of
from autobatch.workload.model_search import find_model, named_model, needs_no_arguments
from autobatch.workload.optimizers import learning_rate
from autobatch.workload.parts import Parts, check_model, schedule_of
from autobatch.workload.sampling import batch_size_of
from autobatch.workload.target_import import import_target
from autobatch.workload.user_errors import describe_error, location_of

_DATASETS = ("dataset", "train_dataset", "train_dataloader", "datamodule")
_VAL_DATASETS = ("val_dataset", "valid_dataset", "val_dataloader")
# Names of loaders in scripts. A loader comes before the data set that it holds, since it knows more.
_LOADERS = (
    *("train_loader", "trainloader", "training_loader", "train_data_loader", "training_data_loader"),
    *("training_dataloader", "train_dl", "dataloader", "data_loader"),
)
_VAL_LOADERS = ("val_loader", "valloader", "valid_loader", "validation_loader", "valid_dataloader", "val_dl")
_EPOCHS = ("epochs", "num_epochs", "max_epochs", "num_train_epochs")
_ACCUMULATION = ("accumulation_steps", "gradient_accumulation_steps", "accumulate_grad_batches")
# Counts of steps, which a new batch size changes.
_SCHEDULE = ("warmup_steps", "num_warmup_steps", "total_steps", "max_steps", "num_training_steps")


def load_parts(target: str, arguments: Sequence[str] = ()) -> Parts:
    """The parts of `file.py[:attr]` or `pkg.mod[:attr]`, after importing it with `arguments` in `sys.argv`.

    Raises TargetError where the file is missing, raises, exits, or names no model that can be meant.
    """
    path, _, attribute = target.partition(":")
    module = import_target(path, arguments)
    model = named_model(module, attribute, target) if attribute else find_model(module, path)
    check_model(model, target)
    dataset = _first_loader(module, _LOADERS)
    if dataset is None:
        dataset = _first(module, _DATASETS)
    if dataset is None:
        dataset = _datamodule(module)
    accumulation = _positive(module, _ACCUMULATION)
    batch_size, batch_size_source = _current_batch_size(module, dataset)
    return Parts(
        name=target,
        model=model,
        dataset=dataset,
        val_dataset=_first(module, _VAL_DATASETS) or _first_loader(module, _VAL_LOADERS),
        loader=settings_of(dataset),
        collate_fn=getattr(module, "collate_fn", None),
        loss_fn=getattr(module, "loss_fn", None),
        optimizer=getattr(module, "make_optimizer", getattr(module, "optimizer", None)),
        make_optimizers=getattr(module, "make_optimizers", None),
        training_step=getattr(module, "training_step", None),
        step=getattr(module, "step", None),
        parallelize=getattr(module, "parallelize", None),
        batch_size=None if batch_size is None else batch_size * int(accumulation or 1),
        accumulation_steps=int(accumulation or 1),
        batch_size_source=batch_size_source,
        learning_rate_power=_learning_rate_power(module),
        epochs=_positive(module, _EPOCHS),
        schedule=schedule_of({name: getattr(module, name, None) for name in _SCHEDULE}),
        precision=_precision(module),
    )


def _learning_rate_power(module: ModuleType) -> float:
    """The power of the file's `batch_size` that its `make_optimizer` has as a factor of the learning rate.

    0 where the function doesn't read that name, or can't be called for a parameter of its own.
    """
    make, size = getattr(module, "make_optimizer", None), getattr(module, "batch_size", None)
    if not inspect.isfunction(make) or "batch_size" not in make.__code__.co_names:
        return 0.0
    if not isinstance(size, int) or isinstance(size, bool):
        return 0.0
    rates: list[float | None] = []
    try:
        for changed in (size, 2 * size):
            vars(module)["batch_size"] = changed
            rates.append(learning_rate([make([nn.Parameter(torch.zeros(1))])]))
    except Exception:
        # It needs the model's parameters, or more than these.
        return 0.0
    finally:
        vars(module)["batch_size"] = size
    before, after = rates
    return log2(after / before) if before and after else 0.0


def _first(module: ModuleType, names: tuple[str, ...]) -> Any:
    """The first of `build_NAME()` or `NAME` that the module has; functions are called."""
    for name in names:
        if hasattr(module, f"build_{name}"):
            return _made_by(getattr(module, f"build_{name}"), f"build_{name}")
        if hasattr(module, name):
            value = getattr(module, name)
            return _made_by(value, name) if inspect.isfunction(value) else value
    return None


def _first_loader(module: ModuleType, names: tuple[str, ...]) -> DataLoader[Any] | None:
    """The first DataLoader by one of these names; functions of such names may want arguments."""
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, DataLoader)), None)


def _datamodule(module: ModuleType) -> Any:
    """An instance of the file's only class that looks like a LightningDataModule and needs no arguments."""
    looks = ("prepare_data", "setup", "train_dataloader")
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        # A LightningModule may bring its data along, but it is no data module.
        and not issubclass(value, nn.Module)
        and all(hasattr(value, name) for name in looks)
        and needs_no_arguments(value)
    ]
    return _made_by(classes[0], classes[0].__name__) if len(classes) == 1 else None


def _made_by(function: Callable[[], Any], name: str) -> Any:
    try:
        return function()
    except AutobatchError:
        raise
    except Exception as error:
        raise TargetError(
            f"`{name}()` raised an error",
            code="target_raises",
            facts=(describe_error(error), *location_of(error)),
        ) from error


def _positive(module: ModuleType, names: tuple[str, ...]) -> float | None:
    """The first positive number that the module has by one of these names."""
    values = (getattr(module, name, None) for name in names)
    numbers = (value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool))
    return next((float(number) for number in numbers if number > 0), None)


def _precision(module: ModuleType) -> Precision:
    """The precision that the module names. Raises UsageError for a text that names none."""
    # Another object by that name, such as a metric, says nothing about how the model is trained.
    name = getattr(module, "precision", None)
    return parse_precision(name) if isinstance(name, str) else Precision.FP32


def _current_batch_size(module: ModuleType, dataset: Any) -> tuple[int | None, str]:
    """(size, its source) of the batches today; None and an empty text where the module does not say."""
    size = getattr(module, "batch_size", None)
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size, f"`batch_size` of `{module.__name__}`"
    if isinstance(dataset, DataLoader):
        size = batch_size_of(dataset)
        return (None, "") if size is None else (size, "of its DataLoader")
    return None, ""

"""Finds in a user's file what training needs: model, data, loss, optimizer, loop.

Runs in the worker only: importing a model file runs it. The conventions follow Flask (well-known names,
then the only instance, then a factory) and uvicorn (`module:attribute`).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from autobatch.devices.torch_internals import is_loss_module
from autobatch.records.errors import AutobatchError, TargetError, message_of, missing_file
from autobatch.records.formatting import parse_precision
from autobatch.records.limits import Precision
from autobatch.records.workload import StepCount
from autobatch.workload.data_loader import LoaderSettings, settings_of
from autobatch.workload.keras import detection

_MODEL_FACTORIES = ("build_model", "get_model", "make_model", "create_model")
_DATASETS = ("dataset", "train_dataset", "train_dataloader", "datamodule")
_VAL_DATASETS = ("val_dataset", "valid_dataset", "val_dataloader")
_EPOCHS = ("epochs", "num_epochs", "max_epochs", "num_train_epochs")
# What people count in steps: a new batch size needs new numbers for them.
_SCHEDULE = ("warmup_steps", "num_warmup_steps", "total_steps", "max_steps", "num_training_steps")
_LONGEST_TOLD = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a target gives. `make_model` returns a model to train; `made` is the one that exists already.

    `loader` is None where the data set did not come in a DataLoader. `parallelize` makes of a model on its
    device what several ranks train, in place of DistributedDataParallel. `prepared`: the data have been set
    up by who sends them. `zero_grad_after_forward`: gradients of a step live until after the next forward
    pass.
    `remarks`: what has to be told of a training that was taken from a framework.
    """

    name: str
    make_model: Callable[[], nn.Module]
    made: nn.Module | None = None
    dataset: Any = None
    val_dataset: Any = None
    loader: LoaderSettings | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    val_collate_fn: Callable[[list[Any]], Any] | None = None
    loss_fn: Callable[..., Any] | None = None
    optimizer: Any = None
    make_optimizers: Callable[[nn.Module], Any] | None = None
    training_step: Callable[..., Any] | None = None
    evaluation_step: Callable[..., Any] | None = None
    step: Callable[..., Any] | None = None
    parallelize: Callable[[nn.Module], nn.Module] | None = None
    batch_size: int | None = None
    epochs: float | None = None
    schedule: tuple[StepCount, ...] = ()
    prepared: bool = False
    zero_grad_after_forward: bool = False
    remarks: Callable[[], tuple[str, ...]] = tuple
    precision: Precision = Precision.FP32


def load_parts(target: str) -> Parts:
    """The parts of `file.py[:attr]` or `pkg.mod[:attr]`, after importing it.

    Raises TargetError where the file is missing, raises, exits, or names no model that can be meant.
    """
    path, _, attribute = target.partition(":")
    module = _import(path)
    model = _attribute(module, attribute, target) if attribute else _find_model(module, path)
    make_model, made = _as_factory(model, target)
    dataset = _first(module, _DATASETS)
    if dataset is None:
        dataset = _own_datamodule(module)
    return Parts(
        name=target,
        make_model=make_model,
        made=made,
        dataset=dataset,
        val_dataset=_first(module, _VAL_DATASETS),
        loader=settings_of(dataset),
        collate_fn=getattr(module, "collate_fn", None),
        loss_fn=getattr(module, "loss_fn", None),
        optimizer=getattr(module, "make_optimizer", getattr(module, "optimizer", None)),
        make_optimizers=getattr(module, "make_optimizers", None),
        training_step=getattr(module, "training_step", None),
        step=getattr(module, "step", None),
        parallelize=getattr(module, "parallelize", None),
        batch_size=_current_batch_size(module, dataset),
        epochs=_positive(module, _EPOCHS),
        schedule=schedule_of({name: getattr(module, name, None) for name in _SCHEDULE}),
        precision=_precision(module),
    )


def parts_from_objects(objects: Mapping[str, Any]) -> Parts:
    """The parts of a `find` call, from its arguments by name."""
    make_model, made = _as_factory(objects["model"], "find")
    rest = {name: value for name, value in objects.items() if name not in ("model", "schedule")}
    return Parts(
        name="find",
        make_model=make_model,
        made=made,
        schedule=schedule_of(objects.get("schedule") or {}),
        **rest,
    )


def schedule_of(counts: Mapping[str, Any]) -> tuple[StepCount, ...]:
    """What of `counts` is a positive number of steps, by name."""
    return tuple(
        StepCount(name=name, steps=steps)
        for name, steps in counts.items()
        if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0
    )


def is_file(path: str) -> bool:
    """True where a target names a file rather than a module."""
    return path.endswith(".py") or os.sep in path


def where(error: BaseException, skip: str = "autobatch") -> str:
    """`file.py:12` of the innermost line of the user's own code in a traceback; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not _is_library(f.filename, skip)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def told(error: BaseException) -> str:
    """`Type: message`, the message's first line only, and of that no more than anybody would read."""
    lines = message_of(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= _LONGEST_TOLD else text[:_LONGEST_TOLD] + "…"


def _is_library(filename: str, package: str) -> bool:
    root = str(Path(__file__).parents[1])
    inside = filename.startswith(root) and f"{os.sep}examples{os.sep}" not in filename
    return (
        inside
        or filename.startswith("<")
        or "site-packages" in filename
        or f"{os.sep}lib{os.sep}python" in filename
    )


def _import(path: str) -> ModuleType:
    try:
        return _import_file(Path(path)) if is_file(path) else _import_module(path)
    except AutobatchError:
        raise
    except SystemExit as stopped:
        raise exits(f"`{path}`", "it was imported", stopped) from None
    # What a file raises may be no Exception: `pytest.skip` and its like derive from BaseException.
    except BaseException as error:
        raise TargetError(
            f"`{path}` raised an error while it was imported",
            code="target_raises",
            facts=(told(error), *at(error)),
            hint=_import_hint(path, error),
        ) from None


def exits(name: str, during: str, stopped: SystemExit) -> TargetError:
    """The error for a target that ends the process."""
    return TargetError(
        f"{name} called `sys.exit` while {during}",
        code="target_exits",
        facts=(f"exit status: {stopped.code}", *at(stopped)),
        hint='put what should run only as a script under `if __name__ == "__main__":`',
    )


def _import_hint(path: str, error: BaseException) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        module = ".".join(Path(path).with_suffix("").parts)
        return f"name it as a module of its package, such as `autobatch probe {module}`"
    if isinstance(error, ModuleNotFoundError):
        return f"autobatch runs in `{sys.executable}`: install the module there"
    run = shlex.quote(path) if is_file(path) else f"-m {path}"
    return f"run `python {run}` to see the whole error"


def at(error: BaseException) -> tuple[str, ...]:
    """The fact that tells where in the user's own code an error was raised; none if it was elsewhere."""
    place = where(error)
    return (f"at {place}",) if place else ()


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise missing_file(path)
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        raise TargetError(
            f"`{path}` has the name of a module that is in use",
            code="name_taken",
            facts=(f"`import {name}` means another module already",),
            hint=f"rename the file, for example to `{name}_model.py`",
        )
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise TargetError(
            f"`{path}` is not a Python file", code="not_python", hint="give a file that ends in `.py`"
        )
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(
            f"`{name}` is neither a file nor a module",
            code="no_module",
            hint="give `file.py`, `file.py:model` or `pkg.module:model`",
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(
                f"there is no module `{name}`",
                code="no_module",
                facts=("looked in the current folder and in what is installed",),
                hint="check the name, or give the path of a file, such as `model.py`",
            ) from None
        raise


def _attribute(module: ModuleType, attribute: str, target: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise TargetError(
                f"`{target}` names nothing: there is no `{part}`",
                code="no_attribute",
                facts=_candidate_facts(module),
                hint=_candidate_hint(module, target.partition(":")[0]),
            )
        found = getattr(found, part)
    return found


def _find_model(module: ModuleType, path: str) -> Any:
    for name in (*_MODEL_FACTORIES, "model"):
        if hasattr(module, name):
            return getattr(module, name)
    instances, classes = _candidates(module)
    for group in (instances, classes):
        # Two names of one object are one model.
        if group and len({id(getattr(module, name)) for name in group}) == 1:
            return getattr(module, group[0])
        if group:
            raise TargetError(
                f"`{path}` has more than one model",
                code="several_models",
                facts=_candidate_facts(module),
                hint=_candidate_hint(module, path),
            )
    raise TargetError(
        f"`{path}` has no model",
        code="no_model",
        facts=("looked for `build_model()`, `model`, an nn.Module, an nn.Module class without arguments",),
        hint="add `def build_model(): return MyModel(...)`",
    )


def _candidates(module: ModuleType) -> tuple[list[str], list[str]]:
    """Names of nn.Module instances, and of nn.Module classes of this file that need no arguments."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    instances = [name for name, value in public.items() if _is_model(value) and name != "loss_fn"]
    classes = [name for name, value in public.items() if _is_own_model_class(value, module)]
    return instances, classes


def _is_model(value: Any) -> bool:
    return isinstance(value, nn.Module) and not is_loss_module(value)


def _is_own_model_class(value: Any, module: ModuleType) -> bool:
    if not (inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__):
        return False
    return _needs_no_arguments(value)


def _needs_no_arguments(kind: Any) -> bool:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    flexible = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in flexible for p in parameters)


def _candidate_facts(module: ModuleType) -> tuple[str, ...]:
    instances, classes = _candidates(module)
    names = [f"`{name}`" for name in (*instances, *classes)]
    return (f"models there: {', '.join(names)}",) if names else ()


def _candidate_hint(module: ModuleType, path: str) -> str:
    instances, classes = _candidates(module)
    names = instances + classes
    return " or ".join(f"`autobatch probe {path}:{name}`" for name in names[:4]) if names else ""


def _as_factory(model: Any, target: str) -> tuple[Callable[[], nn.Module], nn.Module | None]:
    detection.refuse_other_backend(model)
    if isinstance(model, nn.Module):
        return (lambda: model), model
    if not callable(model):
        raise TargetError(
            f"the model of `{target}` is a {type(model).__name__}, not an nn.Module",
            code="not_a_model",
            hint="give an nn.Module, or a function that returns one",
        )

    def make() -> nn.Module:
        made = model()
        detection.refuse_other_backend(made)
        if not isinstance(made, nn.Module):
            raise TargetError(
                f"`{getattr(model, '__name__', model)}()` returned a {type(made).__name__}, not an nn.Module",
                code="not_a_model",
                hint="return the model from it",
            )
        return made

    return make, None


def _first(module: ModuleType, names: tuple[str, ...]) -> Any:
    """The first of `build_NAME()` or `NAME` that the module has; functions are called."""
    for name in names:
        if hasattr(module, f"build_{name}"):
            return _made_by(getattr(module, f"build_{name}"), f"build_{name}")
        if hasattr(module, name):
            found = getattr(module, name)
            return _made_by(found, name) if inspect.isfunction(found) else found
    return None


def _own_datamodule(module: ModuleType) -> Any:
    """An instance of the file's only class that looks like a LightningDataModule and needs no arguments."""
    looks = ("prepare_data", "setup", "train_dataloader")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        # A LightningModule may bring its data along, but it is no data module.
        and not issubclass(value, nn.Module)
        and all(hasattr(value, name) for name in looks)
        and _needs_no_arguments(value)
    ]
    return _made_by(found[0], found[0].__name__) if len(found) == 1 else None


def _made_by(function: Callable[[], Any], name: str) -> Any:
    try:
        return function()
    except AutobatchError:
        raise
    except Exception as error:
        raise TargetError(
            f"`{name}()` raised an error", code="target_raises", facts=(told(error), *at(error))
        ) from error


def _positive(module: ModuleType, names: tuple[str, ...]) -> float | None:
    """The first positive number that the module has by one of these names."""
    found = (getattr(module, name, None) for name in names)
    return next(
        (float(n) for n in found if isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0), None
    )


def _precision(module: ModuleType) -> Precision:
    """What the module calls its precision. Raises UsageError for a text that names none."""
    # Something else by that name, such as a metric, says nothing about how the model is trained.
    named = getattr(module, "precision", None)
    return parse_precision(named) if isinstance(named, str) else Precision.FP32


def _current_batch_size(module: ModuleType, dataset: Any) -> int | None:
    size = getattr(module, "batch_size", None)
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size
    return dataset.batch_size if isinstance(dataset, DataLoader) else None

"""Finds the model in a user's module: by its name, by convention, or as the only model there.

The conventions follow Flask (well-known names, then the only instance, then a class) and uvicorn
(`module:attribute`).
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from torch import nn

from autobatch.devices.torch_internals import is_loss_module
from autobatch.records.errors import TargetError

_MODEL_FACTORIES = ("build_model", "get_model", "make_model", "create_model")


def named_model(module: ModuleType, attribute: str, target: str) -> Any:
    """The object `attribute`, such as `Nets.small`. Raises TargetError where there is none."""
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise TargetError(
                f"`{target}` names nothing: there is no `{part}`",
                code="no_attribute",
                facts=_candidate_facts(module),
                hint=_candidate_hint(module, target.partition(":")[0]),
            )
        value = getattr(value, part)
    return value


def find_model(module: ModuleType, path: str) -> Any:
    """The model, or the function or class that makes it. Raises TargetError for none and for several."""
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
    classes = [name for name, value in public.items() if _is_model_class(value, module)]
    return instances, classes


def _is_model(value: Any) -> bool:
    return isinstance(value, nn.Module) and not is_loss_module(value)


def _is_model_class(value: Any, module: ModuleType) -> bool:
    if not (inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__):
        return False
    return needs_no_arguments(value)


def needs_no_arguments(kind: Any) -> bool:
    """True for a class that can be called without arguments."""
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

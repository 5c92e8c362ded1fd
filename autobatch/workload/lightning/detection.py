"""Recognizes Lightning's classes under both names of the package, without importing it."""

from __future__ import annotations

import copy
import sys
from typing import Any

FRAMEWORKS = ("lightning.pytorch", "pytorch_lightning")


def framework_of(thing: Any, kind: str = "LightningModule") -> Any:
    """The imported framework of which `thing` is a `kind`; None for other objects."""
    for name in FRAMEWORKS:
        package = sys.modules.get(name)
        if isinstance(thing, getattr(package, kind, ())):
            return package
    return None


def is_datamodule(data: Any) -> bool:
    return framework_of(data, "LightningDataModule") is not None


def frameworks_in_use() -> tuple[str, ...]:
    """The names under which this process has imported the framework."""
    return tuple(name for name in FRAMEWORKS if name in sys.modules)


def frameworks_of(model: Any, data: Any) -> tuple[str, ...]:
    """The names of the frameworks that a model and its data need."""
    frameworks = framework_of(model), framework_of(data, "LightningDataModule")
    return tuple(dict.fromkeys(package.__name__ for package in frameworks if package is not None))


def detached(data: Any) -> Any:
    """A data module without its Trainer; any other object as it is."""
    if not is_datamodule(data) or data.trainer is None:
        return data
    alone = copy.copy(data)
    alone.trainer = None
    return alone


def overrides(thing: Any, name: str) -> bool:
    """True where the class, or the object itself, replaces a method of the framework."""
    if thing is None or not hasattr(thing, name):
        return False
    bases = [
        getattr(sys.modules[name_in_use], kind)
        for name_in_use in frameworks_in_use()
        for kind in ("LightningModule", "LightningDataModule")
    ]
    method = getattr(getattr(thing, name), "__func__", getattr(thing, name))
    return all(method is not getattr(base, name, None) for base in bases if isinstance(thing, base))

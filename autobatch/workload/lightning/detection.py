"""Lightning under either of its names, looked at only where something else has imported it."""

from __future__ import annotations

import copy
import sys
from typing import Any

FRAMEWORKS = ("lightning.pytorch", "pytorch_lightning")


def framework_of(thing: Any, kind: str = "LightningModule") -> Any:
    """The imported framework whose `kind` a thing is; None for anything else."""
    for name in FRAMEWORKS:
        package = sys.modules.get(name)
        if isinstance(thing, getattr(package, kind, ())):
            return package
    return None


def is_datamodule(data: Any) -> bool:
    return framework_of(data, "LightningDataModule") is not None


def frameworks_in_use() -> tuple[str, ...]:
    """The names under which the framework is imported here."""
    return tuple(name for name in FRAMEWORKS if name in sys.modules)


def frameworks_of(model: Any, data: Any) -> tuple[str, ...]:
    """The names of the frameworks that a model and its data can't do without."""
    found = framework_of(model), framework_of(data, "LightningDataModule")
    return tuple(dict.fromkeys(one.__name__ for one in found if one is not None))


def detached(data: Any) -> Any:
    """A data module without the Trainer that it was attached to; anything else as it is."""
    if not is_datamodule(data) or data.trainer is None:
        return data
    alone = copy.copy(data)
    alone.trainer = None
    return alone


def overrides(thing: Any, name: str) -> bool:
    """True where the class, or the object itself, has a method of its own in place of the framework's."""
    if thing is None or not hasattr(thing, name):
        return False
    bases = [
        getattr(sys.modules[one], kind)
        for one in frameworks_in_use()
        for kind in ("LightningModule", "LightningDataModule")
    ]
    own = getattr(getattr(thing, name), "__func__", getattr(thing, name))
    return all(own is not getattr(base, name, None) for base in bases if isinstance(thing, base))

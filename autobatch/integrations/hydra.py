"""Resolvers for Hydra and OmegaConf: a configuration takes its batch size from a saved result.

batch_size: ${autobatch:result.json,32}
accumulate: ${autobatch.accumulation_steps:result.json,1}
lr: ${autobatch.learning_rate:result.json,0.001}
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from autobatch.records.recommendation import Recommendation
from autobatch.storage import result_files

_NOT_GIVEN = object()
_FIELDS: dict[str, Callable[[Recommendation], Any]] = {
    "autobatch": lambda found: found.batch_size,
    "autobatch.accumulation_steps": lambda found: found.accumulation_steps,
    "autobatch.learning_rate": lambda found: found.learning_rate,
}


def register() -> None:
    """Makes `${autobatch:FILE,DEFAULT}` known, and its like for accumulation steps and learning rate.

    Call it before the configuration is read, once or as often as you like. FILE is what
    `autobatch probe --save FILE` wrote; a relative path starts from where the program was started, also
    where Hydra changes the folder. Where there is no such file, or no such value in it, DEFAULT is taken.
    Without a default that is a SavedResultError, and a file that can't be read always is one; OmegaConf wraps
    it in an InterpolationResolutionError.
    """
    for name, field in _FIELDS.items():
        OmegaConf.register_new_resolver(name, _resolver(field), replace=True)


def _resolver(field: Callable[[Recommendation], Any]) -> Callable[..., Any]:
    def resolve(path: str, default: Any = _NOT_GIVEN) -> Any:
        file = _from_start(str(path))
        if default is not _NOT_GIVEN and not file.exists():
            return default
        value = field(result_files.load(file))
        return default if value is None and default is not _NOT_GIVEN else value

    return resolve


def _from_start(path: str) -> Path:
    # A program that uses OmegaConf alone changes no folder, and need not have Hydra.
    if "hydra" not in sys.modules:
        return Path(path)
    from hydra.utils import to_absolute_path

    return Path(to_absolute_path(path))

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

_NO_DEFAULT = object()
_FIELDS: dict[str, Callable[[Recommendation], Any]] = {
    "autobatch": lambda recommendation: recommendation.batch_size,
    "autobatch.accumulation_steps": lambda recommendation: recommendation.accumulation_steps,
    "autobatch.learning_rate": lambda recommendation: recommendation.learning_rate,
}


def register() -> None:
    """Register `${autobatch:FILE,DEFAULT}`, and its variants for accumulation steps and learning rate.

    Call it before the configuration is read; repeated calls do no harm. FILE is a
    result of `autobatch probe --save FILE`; a relative path starts from the folder where the program was
    started, even if Hydra changes the folder. DEFAULT stands in for a missing file or a missing value.
    Without a default, and for an unreadable file, a SavedResultError is raised, which OmegaConf wraps in an
    InterpolationResolutionError.
    """
    for name, field in _FIELDS.items():
        OmegaConf.register_new_resolver(name, _resolver(field), replace=True)


def _resolver(field: Callable[[Recommendation], Any]) -> Callable[..., Any]:
    def resolve(path: str, default: Any = _NO_DEFAULT) -> Any:
        file = _from_start(str(path))
        if default is not _NO_DEFAULT and not file.exists():
            return default
        value = field(result_files.load(file))
        return default if value is None and default is not _NO_DEFAULT else value

    return resolve


def _from_start(path: str) -> Path:
    # A program that uses only OmegaConf changes no folder, and may not have Hydra.
    if "hydra" not in sys.modules:
        return Path(path)
    from hydra.utils import to_absolute_path

    return Path(to_absolute_path(path))

"""Weights from a checkpoint, in place of those that a target starts with.

The gradient noise grows along a training, so a check at trained weights tells more about the rest of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from autobatch.records.errors import TargetError
from autobatch.records.escaping import printable
from autobatch.workload.parts import Parts
from autobatch.workload.user_errors import describe_error

# Where Lightning and the usual training loops keep a model's state in a larger file.
_PLACES = ("state_dict", "model_state_dict", "model")
# Wrappers of a module put these before the names of its parameters.
_PREFIXES = ("module.", "_orig_mod.")
_MOST_NAMES = 3


def with_weights(parts: Parts, path: str) -> Parts:
    """The parts with a model that starts at the weights of a checkpoint.

    The file is read without running code of it (`weights_only`). Raises TargetError for a file that holds no
    state of this model.
    """
    state = _read(path)
    remarks = (f"weights from `{printable(os.path.basename(path))}`",)

    def filled() -> nn.Module:
        return _fill(parts.make_model(), state, path)

    # A model that exists keeps its identity, since an optimizer may hold its parameters.
    model = filled if parts.ready_model is None else filled()
    return replace(parts, model=model, remarks=lambda: (*parts.remarks(), *remarks))


def _read(path: str) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # Files of other kinds raise almost anything.
    except Exception as error:
        raise TargetError(
            f"the checkpoint `{printable(path)}` can't be read",
            code="bad_checkpoint",
            facts=(describe_error(error).partition("\n")[0],),
            hint="save the weights alone: `torch.save(model.state_dict(), FILE)`",
        ) from None
    for candidate in (content, *(content.get(place) for place in _PLACES if isinstance(content, Mapping))):
        if _is_state(candidate):
            state = dict(candidate)
            for prefix in _PREFIXES:
                consume_prefix_in_state_dict_if_present(state, prefix)
            return state
    raise TargetError(
        f"the checkpoint `{printable(path)}` holds no weights",
        code="bad_checkpoint",
        facts=(f"looked for tensors by name in the file, and in its {', '.join(f'`{p}`' for p in _PLACES)}",),
        hint="save them: `torch.save(model.state_dict(), FILE)`",
    )


def _is_state(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) for name in content)
        and any(isinstance(value, torch.Tensor) for value in content.values())
    )


def _fill(model: nn.Module, state: dict[str, Any], path: str) -> nn.Module:
    """Loads the state into the model. Raises TargetError for a state of another model."""
    try:
        mismatch = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise _other_model(path, str(error).splitlines()[1:]) from None
    facts = [
        f"{what} {', '.join(f'`{name}`' for name in names[:_MOST_NAMES])}"
        + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")
        for what, names in (("it lacks", mismatch.missing_keys), ("it also has", mismatch.unexpected_keys))
        if names
    ]
    if facts:
        raise _other_model(path, facts)
    return model


def _other_model(path: str, facts: list[str]) -> TargetError:
    return TargetError(
        f"the checkpoint `{printable(path)}` is of another model",
        code="bad_checkpoint",
        facts=tuple(printable(fact.strip()) for fact in facts[:_MOST_NAMES]),
        hint="give the checkpoint of this model, with the same layers and sizes",
    )

"""Stops a target that trains while it is imported: a script, which is measured as a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from autobatch.records.errors import TargetError


@contextmanager
def training_refused(command: str) -> Iterator[None]:
    """Within the block, the first step of an optimizer raises TargetError, and so does Keras' `fit`.

    `command` runs the target by itself.
    """
    backward: Any = torch.Tensor.backward

    def stop(what: str) -> NoReturn:
        raise TargetError(
            "the target trains while it is imported",
            code="trains_on_import",
            facts=(what,),
            hint=f"measure it as it is: `autobatch probe -- {command}`",
        )

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        stop(f"`{type(optimizer).__name__}.step` was called")

    def guarded(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # Keras steps with optimizers of its own, which torch does not know.
        if str(sys._getframe(1).f_globals.get("__name__", "")).startswith("keras."):
            stop("`fit` of a Keras model was called")
        return backward(self, *args, **kwargs)

    hook = register_optimizer_step_pre_hook(before_step)
    torch.Tensor.backward = guarded  # type: ignore[method-assign]
    try:
        yield
    finally:
        hook.remove()
        torch.Tensor.backward = backward  # type: ignore[method-assign]

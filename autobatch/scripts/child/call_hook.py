"""A hook on the calls of a model that its copies and its checkpoints leave behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import nn

Called = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


class CallHook:
    """Calls a function before each call of a module.

    A model that is pickled or deep-copied takes its hooks along. In the copy a function of the standard
    library that does nothing stands for this one, so that a checkpoint needs nothing of autobatch.
    """

    def __init__(self, called: Called) -> None:
        self._called = called

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._called(module, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")

"""The beginning, in every Python of a measured command: hooks wait for its import of torch."""

from __future__ import annotations

import atexit
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from . import libraries, protection, sightings
from .imports import after_import
from .link import Link

if TYPE_CHECKING:
    from .watch import Watch

_VARIABLE = "AUTOBATCH_SCRIPT"


def start() -> None:
    """Protect files, and hook torch when it is imported. Settings are JSON in AUTOBATCH_SCRIPT."""
    settings: dict[str, Any] = json.loads(os.environ[_VARIABLE])
    if settings.get("scratch"):
        libraries.keep_to(protection.install(settings["scratch"], settings["socket"]))
        shared = os.path.join(settings["scratch"], "sightings.jsonl")
        after_import("argparse", lambda module: sightings.watch_argparse(module, shared))
    after_import("torch", lambda module: _torch_imported(settings))


def _torch_imported(settings: dict[str, Any]) -> None:
    apply = settings.get("apply")
    if not settings.get("socket"):
        if apply is not None:
            after_import("torch.utils.data", lambda module: _apply(apply))
        return
    from . import hooks
    from .watch import Watch

    link = Link(settings["socket"])
    link.send("torch", rank=os.environ.get("RANK"))
    watch = Watch(link, settings.get("limit_bytes"), settings["steps"])
    hooks.install(watch, apply)
    after_import("keras.src.optimizers.base_optimizer", lambda module: hooks.hook_keras(watch, module))
    atexit.register(watch.script_ended)
    _report_crashes(link, watch)


def _apply(apply: dict[str, Any]) -> None:
    from . import loaders

    loaders.install_size(apply)


def _report_crashes(link: Link, watch: Watch) -> None:
    """Send an uncaught exception, before Python prints it."""
    report = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if link.is_mine:
            memory = isinstance(error, MemoryError) or kind.__name__ == "OutOfMemoryError"
            # Its steps so far are no result.
            watch.released = True
            link.send("crashed", kind=kind.__name__, text=str(error)[:2000], out_of_memory=memory)
        report(kind, error, trace)

    sys.excepthook = excepthook

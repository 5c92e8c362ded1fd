"""The opening of an engine on this machine: its environment, and the reasons why there can be none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import psutil

from autobatch import devices
from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.engines.worker_process import IN_WORKER
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.escaping import printable_output
from autobatch.records.limits import Limits
from autobatch.workload import compilation
from autobatch.workload.keras import backend

# The arguments of LocalEngine, to an engine that may run some trials elsewhere.
EngineMaker = Callable[
    [messages.Recipe, Limits, str | None, dict[str, str], Callable[[str], None]], LocalEngine
]
# Share of all processors that others use, above which spinning threads would ruin the timing.
_CONTENDED_PERCENT = 40.0


def new_engine(
    recipe: messages.Recipe,
    limits: Limits,
    device: str | None,
    on_output: Callable[[str], None] | None,
    make_engine: EngineMaker = LocalEngine,
) -> tuple[LocalEngine, bool]:
    """An engine for this machine, and whether other processes keep its processors busy."""
    refuse_in_worker()
    _check_interpreter()
    kind = devices.parse_name(device)[0] if device else None
    contended = is_contended(kind)
    environment = worker_environment(kind, contended=contended)
    return make_engine(recipe, limits, device, environment, on_output or _to_stderr), contended


def is_contended(kind: str | None) -> bool:
    """True where other processes keep the processors busy that training of this device's kind needs."""
    return kind in (None, "cpu") and psutil.cpu_percent(interval=0.1) > _CONTENDED_PERCENT


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:
        print(printable_output(line, colour=sys.stderr.isatty()), file=sys.stderr)


def refuse_in_worker() -> None:
    if IN_WORKER in os.environ:
        raise UsageError(
            "autobatch was called from a file that autobatch is measuring",
            code="nested_call",
            hint='put the call under `if __name__ == "__main__":`',
        )


def worker_environment(kind: str | None, *, contended: bool) -> dict[str, str]:
    """Variables that have to be set before the worker imports torch."""
    environment = backend.worker_environment()
    if contended:
        # Threads that spin while they wait take the processor from the ones that work.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if sys.platform == "darwin" and kind in (None, "mps"):
        # Without both, MPS swaps instead of running out; lowering HIGH alone is an error.
        environment["PYTORCH_MPS_HIGH_WATERMARK_RATIO"] = "1.0"
        environment["PYTORCH_MPS_LOW_WATERMARK_RATIO"] = "0.9"
    return environment | compilation.cache_folder()


def _check_interpreter() -> None:
    """Raises AutobatchError where this Python can't start another one."""
    if not sys.executable:
        raise AutobatchError(
            "this Python does not know its own executable, so no worker process can be started",
            code="no_interpreter",
            hint="run `autobatch probe` from a shell instead",
        )


def find_devices() -> tuple[Device, ...]:
    """Every device that torch sees here, read in a worker, so that this process holds none of them."""
    engine, _ = new_engine(messages.Recipe(), Limits(), None, None)
    try:
        return engine.devices()
    finally:
        engine.close()

"""The functions that run on a node of a Ray cluster, in a separate process."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from msgspec.structs import replace

from autobatch._version import __version__
from autobatch.devices import host, nvml
from autobatch.devices.host import usable_processors
from autobatch.engines import messages
from autobatch.engines.opening import new_engine
from autobatch.records.escaping import printable_output
from autobatch.records.fleet import NodeReport
from autobatch.records.limits import Limits

_THREADS = "OMP_NUM_THREADS"


def read_node() -> NodeReport:
    """The hardware of this machine, and its versions. Imports no torch."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return NodeReport(
        cpu=host.cpu_name(),
        cpus=usable_processors(),
        memory_bytes=host.read_memory().total_bytes,
        gpus=tuple(gpu.name or "GPU" for gpu in nvml.read_all()),
        autobatch=__version__,
        torch=torch,
    )


def train_here(
    recipe: messages.Recipe, limits: Limits, device: str | None, command: messages.Train
) -> messages.Trained:
    """A short training in a fresh worker of this node.

    Raises the user's errors where the workload can't be made here; how the training ends is its outcome.
    """
    train_as_without_ray()
    engine, _ = new_engine(recipe, limits, device, print_here)
    try:
        engine.open()
        # The first steps of a process pay for imports and for memory that later ones find there.
        engine.train(replace(command, seconds=0.0))
        return engine.train(command)
    finally:
        engine.close()


def train_as_without_ray() -> None:
    """Undoes settings of Ray that change a training or its imports.

    Ray sets a number of threads for each task: where that is all processors, torch's default is better, and
    the same as without Ray. The folder of the model file is the current one, which a worker can import from.
    On PYTHONPATH, a `random.py` in it would replace that of Python.
    """
    if os.environ.get(_THREADS, "") == str(usable_processors()):
        del os.environ[_THREADS]
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        path for path in paths if path and os.path.realpath(path) != os.path.realpath(os.getcwd())
    )


def print_here(line: str) -> None:
    """Prints to Ray's log of this node."""
    print(printable_output(line, colour=False), file=sys.stderr)

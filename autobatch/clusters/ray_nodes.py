"""What runs on a node of a Ray cluster, in a process of its own."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from msgspec.structs import replace

from autobatch import api
from autobatch._version import __version__
from autobatch.devices import host, nvml
from autobatch.escaping import printable_output
from autobatch.fleet import NodeReport
from autobatch.probe import wire
from autobatch.probe.loading import usable_processors
from autobatch.records import Limits, Recommendation

_THREADS = "OMP_NUM_THREADS"


def read_node() -> NodeReport:
    """What this machine is, and the versions that it has. Imports no torch."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return NodeReport(
        cpu=host.cpu_name(),
        cpus=usable_processors(),
        memory_bytes=host.read_memory().total_bytes,
        gpus=tuple(one.name or "GPU" for one in nvml.read_all()),
        autobatch=__version__,
        torch=torch,
    )


def train_here(
    recipe: wire.Recipe, limits: Limits, device: str | None, command: wire.Train
) -> tuple[wire.Trained, float]:
    """A short training in a fresh worker of this node, and the seconds that count for it.

    Raises the user's errors where the workload can't be made here; how the training ends is its outcome.
    """
    _train_as_without_ray()
    engine, _ = api.new_engine(recipe, limits, device, _print)
    try:
        engine.open()
        # The first steps of a process pay for imports and for memory that later ones find there.
        engine.train(replace(command, seconds=0.0))
        begin = engine.busy_seconds
        return engine.train(command), engine.busy_seconds - begin
    finally:
        engine.close()


def probe_here(recipe: wire.Recipe, limits: Limits, fresh: bool) -> Recommendation:
    """The whole search on this node. Raises like `api.probe`."""
    _train_as_without_ray()
    return api.probe(recipe, limits, on_output=_print, fresh=fresh)


def _train_as_without_ray() -> None:
    """Takes back what Ray has set that changes a training or its imports.

    Ray names a number of threads for each task: where that is all processors, torch's own choice is better,
    and what a training without Ray would have. The folder that came along is the current one, which a worker
    knows of; on PYTHONPATH, a `random.py` in it would take the place of Python's own.
    """
    if os.environ.get(_THREADS, "") == str(usable_processors()):
        del os.environ[_THREADS]
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        one for one in paths if one and os.path.realpath(one) != os.path.realpath(os.getcwd())
    )


def _print(line: str) -> None:
    """To Ray's own log of this node."""
    print(printable_output(line, colour=False), file=sys.stderr)

"""Functions that run on the nodes of a cluster, and what a test needs to see of the processes there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# Never what decides a test: only how long one that has failed already goes on.
PATIENCE_SECONDS = 900.0


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Returns once it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"{what}: it did not come"
        time.sleep(0.05)


def processes_with(word: str) -> list[str]:
    """The command lines of all processes with a word in them."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        line = " ".join(one.info["cmdline"] or ())
        if word in line and one.pid != os.getpid():
            found.append(line)
    return found


def node_id() -> str:
    """Of the node that this runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def hold_alone(folder: str, seconds: float) -> str:
    """The node's name, after it had the device for itself; raises where somebody else has it."""
    mine = Path(folder) / node_id()
    mine.touch(exist_ok=False)
    time.sleep(seconds)
    mine.unlink()
    return mine.name


def die(folder: str, times: int) -> str:
    """Kills its own process the first `times` times, then says where it runs. Leaves a file for each try."""
    tries = len(list(Path(folder).iterdir()))
    (Path(folder) / f"{tries} {node_id()} {os.getpid()}").touch()
    if tries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return node_id()


def stay_on(folder: str, doomed: str) -> str:
    """On the node `doomed` it says that it has begun, and never ends; elsewhere it says where it runs."""
    if node_id() == doomed:
        (Path(folder) / "begun").touch()
        time.sleep(3600)
    return node_id()

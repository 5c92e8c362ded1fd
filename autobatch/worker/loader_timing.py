"""Times a DataLoader that has nothing else to do, inside the worker."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from autobatch.decision.constants import MAX_REPEATS
from autobatch.engines import messages
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

# The name of a socket below the folder for temporary files, and the longest path of a socket on Linux.
_SOCKET_NAME_BYTES = len("/pymp-12345678/listener-12345678")
_MAX_SOCKET_PATH_BYTES = 107
# Ending an iterator waits for its workers, for seconds each if they hang. After a failure the parent ends the
# session with all its processes, so iterators are kept until then.
_unended: list[Iterator[Any]] = []


def run(trainer: Trainer, command: messages.TimeLoader) -> messages.Loaded:
    """The seconds from batch to batch with the command's workers. A failure is the reply's `detail`."""
    if command.workers and (reason := why_workers_hang()):
        return messages.Loaded(batch_seconds=None, detail=reason)
    batches: Iterator[Any] = iter(())
    try:
        loader = trainer.loader(command.batch_size, command.workers, command.seed)
        batches = iter(()) if loader is None else iter(loader)
        seconds, count = _time(batches, command)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        _unended.append(batches)
        return messages.Loaded(batch_seconds=None, detail=_describe_worker_error(error))
    return messages.Loaded(batch_seconds=seconds / count if count else None)


def why_workers_hang() -> str:
    """The reason why workers of a DataLoader could send no batch here; empty where they can.

    They send tensors by a socket of multiprocessing's, in the folder for temporary files. Where its path is
    too long (`sun_path`, unix(7)), a thread of the worker fails, and the process that reads waits forever.
    """
    if torch.multiprocessing.get_sharing_strategy() != "file_descriptor":
        return ""
    folder = tempfile.gettempdir()
    extra_bytes = len(os.fsencode(folder)) + _SOCKET_NAME_BYTES - _MAX_SOCKET_PATH_BYTES
    if extra_bytes <= 0:
        return ""
    much = f"{extra_bytes} byte{'s' * (extra_bytes > 1)}"
    return (
        f"the folder for temporary files has a path that is {much} too long for the sockets of "
        "workers: set `TMPDIR` to a shorter path, here and in your training"
    )


def _time(batches: Iterator[Any], command: messages.TimeLoader) -> tuple[float, int]:
    """(seconds, batches) of whole turns of the workers, after the turn in which they start.

    Workers finish in bursts of a batch each, so that half a turn would look too fast or too slow.
    """
    turn = max(1, command.workers)
    begin, seconds, timed = 0.0, 0.0, 0
    for count, _ in enumerate(batches, start=1):
        if count % turn:
            continue
        now = time.perf_counter()
        if count == turn:
            begin = now
            continue
        seconds, timed = now - begin, count - turn
        if is_enough(timed // turn, seconds, command.seconds):
            break
    return seconds, timed


def is_enough(turns: int, seconds: float, most_seconds: float) -> bool:
    """True after the time, or after as many turns as rounds of a size, once they took an eighth of it.

    A quick loader gives no better mean for more of them. An eighth of the time outlasts a moment's load.
    """
    return seconds >= (most_seconds / MAX_REPEATS if turns >= MAX_REPEATS else most_seconds)


def _describe_worker_error(error: BaseException) -> str:
    """`Type: message` of the error in the DataLoader's worker, whose traceback comes as a text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Original Traceback") for line in lines):
        return lines[-1].strip()
    return describe_error(error)

"""Times a DataLoader that has nothing else to do, inside the worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from autobatch.engines import messages
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

# To end an iterator is to wait for its workers, for seconds each if they hang. After a failure the parent
# ends the session with all that it has started.
_unended: list[Iterator[Any]] = []


def run(trainer: Trainer, command: messages.TimeLoader) -> messages.Loaded:
    """Seconds from batch to batch with so many workers; whatever goes wrong is the detail."""
    batches: Iterator[Any] = iter(())
    try:
        loader = trainer.loader(command.batch_size, command.workers, command.seed)
        batches = iter(()) if loader is None else iter(loader)
        seconds, count = _time(batches, command)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        _unended.append(batches)
        return messages.Loaded(batch_seconds=None, detail=_told_of_worker(error))
    return messages.Loaded(batch_seconds=seconds / count if count else None)


def _time(batches: Iterator[Any], command: messages.TimeLoader) -> tuple[float, int]:
    """(seconds, batches) of whole turns of the workers, after the turn in which they start.

    Workers finish in bursts, a batch each: half a turn would be told as too quick or too slow.
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
        if seconds >= command.seconds:
            break
    return seconds, timed


def _told_of_worker(error: BaseException) -> str:
    """`Type: message` as it was in the DataLoader's worker, whose traceback comes as a text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Original Traceback") for line in lines):
        return lines[-1].strip()
    return describe_error(error)

"""The processes that a session has started, as far as they live, and which of them clean up by themselves."""

from __future__ import annotations

import psutil

# How long those may take; they need milliseconds.
KEEPER_SECONDS = 2.0
# Python's multiprocessing and torch each have a process that removes named shared memory when all are dead
# that might use it. Killed with them, it would leave that memory behind until the machine is restarted.
_KEEPERS = ("multiprocessing.resource_tracker", "torch_shm_manager")


def living_descendants(process: psutil.Process) -> list[psutil.Process]:
    """All descendants but those that have ended and are only waited for."""
    living = []
    for descendant in process.children(recursive=True):
        try:
            if descendant.status() != psutil.STATUS_ZOMBIE:
                living.append(descendant)
        except psutil.Error:
            continue
    return living


def keeps_shared_memory(process: psutil.Process) -> bool:
    """True for a process that ends by itself, after it has removed the shared memory of dead ones."""
    try:
        return any(keeper in word for word in process.cmdline() for keeper in _KEEPERS)
    except psutil.Error:
        return False

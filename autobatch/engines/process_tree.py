"""The processes that a session has started: which live, which clean up by themselves, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

# How long those may take; they need milliseconds.
KEEPER_SECONDS = 2.0
_KILL_SECONDS = 5.0
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


def kill(pid: int) -> None:
    """Kills a process, its group, and all its descendants, also those in another session."""
    keepers: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        deadline = time.monotonic() + _KILL_SECONDS
        # On Linux a worker inherits the orphans of its sessions, so it goes last.
        while time.monotonic() < deadline:
            living = living_descendants(root)
            keepers = [process for process in living if keeps_shared_memory(process)]
            if len(living) == len(keepers):
                break
            _kill_all([process for process in living if process not in keepers])
            time.sleep(0.002)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    _, still_there = psutil.wait_procs(keepers, timeout=KEEPER_SECONDS)
    _kill_all(still_there)
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()

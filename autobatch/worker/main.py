"""The worker: a process that may die.

It starts once, imports torch, then forks a session for each Start. So a fresh process costs milliseconds
instead of the seconds that importing torch takes. Only on Linux is forking safe: elsewhere a worker serves a
single session and ends. The user's code runs in sessions only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import queue
import signal
import sys
import threading
import time
from typing import BinaryIO, NoReturn

import psutil

from autobatch.devices import torch_internals
from autobatch.engines import messages, process_tree
from autobatch.records.errors import AutobatchError
from autobatch.workload import compilation
from autobatch.workload.keras import backend

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# The exit status of a session that the parent ends. The user's code can't end a session by it.
_ENDED_BY_PARENT = 0
_LEFTOVERS_SECONDS = 5.0
# The lowest number of a private descriptor.
_PRIVATE_DESCRIPTORS = 200


def main() -> NoReturn:
    """Serves sessions until the parent goes away."""
    commands, replies = _take_over_streams()
    forks = sys.platform == "linux"
    if forks:
        _adopt_descendants()
        _die_with(os.getppid(), signal.SIGTERM)
    try:
        _import_torch()
    except Exception as error:
        commands.readline()
        messages.send(replies, messages.Refused.of(_no_torch(error)))
        os._exit(1)
    for line in iter(commands.readline, b""):
        # After a session died, a command meant for it may still lie in the pipe.
        command = _decoded(line)
        if isinstance(command, (messages.Start, messages.ListDevices)):
            if not forks:
                _serve(command, commands, replies)
            if isinstance(command, messages.Start):
                _import_frameworks(command.frameworks)
            _serve_in_child(command, commands, replies)
    os._exit(_ENDED_BY_PARENT)


def _serve_in_child(
    command: messages.Start | messages.ListDevices, commands: BinaryIO, replies: BinaryIO
) -> None:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        _die_with(parent, signal.SIGKILL)
        _serve(command, commands, replies)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    _, status = os.waitpid(child, 0)
    _end_leftovers()
    with contextlib.suppress(BrokenPipeError):
        messages.send(replies, messages.Exited(status=os.waitstatus_to_exitcode(status)))


def _serve(first: messages.Start | messages.ListDevices, commands: BinaryIO, replies: BinaryIO) -> NoReturn:
    """One session: answers commands until the parent closes the pipe."""
    # It was imported before the fork. At the top of this module, it would import torch before _import_torch.
    from autobatch.worker.session import Session

    _no_core_dump()
    me = os.getpid()

    def send(message: messages.Reply) -> None:
        # A process that the user's code forked may come back here. It must not answer for the session.
        if os.getpid() != me:
            os._exit(_ENDED_BY_PARENT)
        messages.send(replies, message)

    send(messages.Began(pid=me))
    session = Session(send)
    inbox: queue.SimpleQueue[messages.Command] = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(commands, inbox), daemon=True).start()
    command: messages.Command = first
    while True:
        send(session.answer(command))
        command = inbox.get()


def _read_commands(commands: BinaryIO, inbox: queue.SimpleQueue[messages.Command]) -> None:
    """Passes commands on. At the end of the pipe the parent is gone, and this process group ends."""
    # The user's code may have closed the pipe, which is an end too.
    with contextlib.suppress(OSError):
        for line in iter(commands.readline, b""):
            command = _decoded(line)
            if command is not None:
                inbox.put(command)
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(_ENDED_BY_PARENT)


def _decoded(line: bytes) -> messages.Command | None:
    import msgspec

    try:
        command: messages.Command = messages.decode_command(line)
        return command
    except msgspec.MsgspecError:
        return None


def _take_over_streams() -> tuple[BinaryIO, BinaryIO]:
    """Private descriptors for the messages; prints of the user's code go to standard error."""
    commands = os.fdopen(_private(0), "rb")
    replies = os.fdopen(_private(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return commands, replies


def _private(descriptor: int) -> int:
    """A copy with a high number. Code that closes all low descriptors, as daemons do, leaves it open."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_DESCRIPTORS)
    return os.dup(descriptor)


def _import_torch() -> None:
    """Imports the modules that every session needs, so that no session has to."""
    torch_internals.import_compiler()

    import autobatch.devices.cpu
    import autobatch.worker.session  # noqa: F401

    # Imported objects stay: no later collection has to walk them, and no fork has to copy them.
    gc.freeze()


def _import_frameworks(names: tuple[str, ...]) -> None:
    """Imports frameworks ahead of the sessions. Where that fails, a session reports it at its own import."""
    from autobatch.workload.lightning.detection import FRAMEWORKS

    importable = (*FRAMEWORKS, "keras") if backend.is_torch() else FRAMEWORKS
    wanted = [name for name in names if name in importable and name not in sys.modules]
    for name in wanted:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    if wanted:
        gc.freeze()


def _no_torch(error: Exception) -> AutobatchError:
    return AutobatchError(
        "torch can't be imported",
        code="no_torch",
        facts=(f"{type(error).__name__}: {error}", f"by `{sys.executable}`"),
        hint="run `python -c 'import torch'` with that Python to see the whole error",
    )


def _adopt_descendants() -> None:
    """Makes this process the parent of every process that a session leaves. SIGTERM ends them all."""
    # Signal settings are inherited from the caller. With SIGCHLD ignored, no session could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, _end_everything)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_everything(*_: object) -> NoReturn:
    _end_leftovers()
    # A parent that was killed can't remove it.
    compilation.remove_cache_folder(os.environ)
    os._exit(_ENDED_BY_PARENT)


def _end_leftovers() -> None:
    """Kills all descendants. An orphan of a session is a child of this process.

    The handler of SIGTERM calls it too, perhaps in the middle of itself, so it must not import anything.
    """
    begin = time.monotonic()
    while time.monotonic() < begin + _LEFTOVERS_SECONDS:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process().children(recursive=True):
                patient = time.monotonic() < begin + process_tree.KEEPER_SECONDS
                if not (patient and process_tree.keeps_shared_memory(process)):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
        time.sleep(0.002)


def _die_with(parent: int, by: signal.Signals) -> None:
    """Asks the kernel for a signal when the parent dies. Only Linux has that; elsewhere the pipe ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(_ENDED_BY_PARENT)


def _no_core_dump() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Where the machine runs out of memory, the kernel shall kill this process, not the user's.
        if sys.platform == "linux":
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")

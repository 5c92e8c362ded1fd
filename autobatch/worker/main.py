"""The worker: a process that may die.

It starts once, imports torch, then forks a session for each Start, so that a fresh process costs
milliseconds instead of the seconds that importing torch takes. Where forking is not safe (anywhere but
on Linux) a worker serves one session and ends. The user's code runs in sessions only.
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
# A session that the user's code ends by itself, sys.exit included, never looks like a clean end.
_ENDED_BY_PARENT = 0
_LEFTOVERS_SECONDS = 5.0
_PRIVATE_DESCRIPTORS = 200


def main() -> NoReturn:
    """Serves sessions until the parent goes away."""
    commands, replies = _take_over_streams()
    forks = sys.platform == "linux"
    if forks:
        _answer_for_descendants()
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
    # Imported already, before the fork; named here so that the first to import torch is _import_torch.
    from autobatch.worker.session import Session

    _no_core_dump()
    me = os.getpid()

    def say(message: messages.Reply) -> None:
        # A process that the user's code forked, and that comes back here, must not answer in our name.
        if os.getpid() != me:
            os._exit(_ENDED_BY_PARENT)
        messages.send(replies, message)

    say(messages.Began(pid=me))
    session = Session(say)
    inbox: queue.SimpleQueue[messages.Command] = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(commands, inbox), daemon=True).start()
    command: messages.Command = first
    while True:
        say(session.answer(command))
        command = inbox.get()


def _read_commands(commands: BinaryIO, inbox: queue.SimpleQueue[messages.Command]) -> None:
    """Hands commands on; the end of the pipe means that the parent is gone, and so everything here."""
    # The user's code may have closed it, which is an end too.
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
    """Private descriptors for the conversation; what the user's code prints goes to standard error."""
    commands = os.fdopen(_private(0), "rb")
    replies = os.fdopen(_private(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return commands, replies


def _private(descriptor: int) -> int:
    """A copy with a high number: user code that closes the low ones, as daemons do, leaves it alone."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _PRIVATE_DESCRIPTORS)
    return os.dup(descriptor)


def _import_torch() -> None:
    """Imports the modules that every session needs, so that no session has to."""
    torch_internals.import_compiler()

    import autobatch.devices.cpu
    import autobatch.worker.session  # noqa: F401

    # What was imported stays: no later collection has to walk it, and no fork has to copy it.
    gc.freeze()


def _import_frameworks(names: tuple[str, ...]) -> None:
    """Imports those that are known and not here yet. Where that fails, a session tries again, and tells."""
    from autobatch.workload.lightning.detection import FRAMEWORKS

    known = (*FRAMEWORKS, "keras") if backend.is_torch() else FRAMEWORKS
    wanted = [name for name in names if name in known and name not in sys.modules]
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


def _answer_for_descendants() -> None:
    """Makes this process the heir of all that sessions start and leave, and SIGTERM the end of all of it."""
    # The caller's own settings come along: with SIGCHLD ignored, no session could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, _end_everything)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_everything(*_: object) -> NoReturn:
    _end_leftovers()
    # A parent that was killed can't do it any more.
    compilation.remove_own_folder(os.environ)
    os._exit(_ENDED_BY_PARENT)


def _end_leftovers() -> None:
    """Kills all descendants, wherever they went: an orphan of a session is a child of this process.

    Runs in the handler of SIGTERM too, perhaps in the middle of itself: so nothing may be imported here.
    """
    begin = time.monotonic()
    while time.monotonic() < begin + _LEFTOVERS_SECONDS:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process().children(recursive=True):
                patient = time.monotonic() < begin + process_tree.KEEPER_SECONDS
                if not (patient and process_tree.keeps_shared_memory(one)):
                    with contextlib.suppress(psutil.Error):
                        one.kill()
        time.sleep(0.002)


def _die_with(parent: int, by: signal.Signals) -> None:
    """Asks the kernel for a signal when the parent dies (Linux; elsewhere the pipe's end has to do)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(_ENDED_BY_PARENT)


def _no_core_dump() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # If the machine runs out of memory, the kernel shall choose this process, not the user's.
        if sys.platform == "linux":
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")

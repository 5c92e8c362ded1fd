"""The worker: a process that may die.

It starts once, imports torch, then forks a session for each Start, so that a fresh process costs
milliseconds instead of the seconds that importing torch takes. Where forking is not safe (anywhere but
on Linux) a worker serves one session and ends. The user's code runs in sessions only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

from autobatch.errors import AutobatchError, DeviceError, TargetError
from autobatch.probe import wire
from autobatch.probe.oom import Cause, classify
from autobatch.targets import Parts, told, where

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# A session that the user's code ends by itself, sys.exit included, never looks like a clean end.
_ENDED_BY_PARENT = 0
_LEFTOVERS_SECONDS = 5.0
_DURING = {
    "import": "it was imported",
    "load": "its data set was opened",
    "build": "its model and optimizer were made",
}


def main() -> NoReturn:
    """Serves sessions until the parent goes away."""
    commands, replies = _take_over_streams()
    forks = sys.platform == "linux"
    if forks:
        _answer_for_descendants()
        _die_with(os.getppid(), signal.SIGTERM)
    _import_torch()
    for line in iter(commands.readline, b""):
        # After a session died, a command meant for it may still lie in the pipe.
        command = _decoded(line)
        if isinstance(command, (wire.Start, wire.ListDevices)):
            if not forks:
                _serve(command, commands, replies)
            _serve_in_child(command, commands, replies)
    os._exit(_ENDED_BY_PARENT)


def _serve_in_child(command: wire.Start | wire.ListDevices, commands: BinaryIO, replies: BinaryIO) -> None:
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
        wire.send(replies, wire.Exited(status=os.waitstatus_to_exitcode(status)))


def _serve(first: wire.Start | wire.ListDevices, commands: BinaryIO, replies: BinaryIO) -> NoReturn:
    """One session: answers commands until the parent closes the pipe."""
    _no_core_dump()
    wire.send(replies, wire.Began(pid=os.getpid()))
    session = Session(lambda message: wire.send(replies, message))
    inbox: queue.SimpleQueue[wire.Command] = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(commands, inbox), daemon=True).start()
    command: wire.Command = first
    while True:
        wire.send(replies, session.answer(command))
        command = inbox.get()


def _read_commands(commands: BinaryIO, inbox: queue.SimpleQueue[wire.Command]) -> None:
    """Hands commands on; the end of the pipe means that the parent is gone, and so everything here."""
    for line in iter(commands.readline, b""):
        command = _decoded(line)
        if command is not None:
            inbox.put(command)
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(_ENDED_BY_PARENT)


class Session:
    """What one process of the worker holds: the device, the trainer, and the measurer over both."""

    def __init__(self, tell: Callable[[wire.Reply], None]) -> None:
        self._tell = tell
        self._measurer: Any = None
        self._in_round = False

    def answer(self, command: wire.Command) -> wire.Reply:
        """The reply to one command. Whatever goes wrong is a reply too."""
        try:
            return self._answer(command)
        except AutobatchError as error:
            return wire.Refused.of(error)

    def _answer(self, command: wire.Command) -> wire.Reply:
        if isinstance(command, wire.Start):
            return self._open(command)
        if isinstance(command, wire.ListDevices):
            from autobatch.devices import open_all

            return wire.Devices(devices=tuple(backend.describe() for backend in open_all()))
        self._in_round = isinstance(command, wire.TimeRound)
        if isinstance(command, wire.TryOut):
            tried: wire.Reply = self._measurer.try_out(command.batch_size, command.seconds, command.steps)
            return tried
        timed: wire.Reply = self._measurer.time_round(command.batch_size, command.seconds)
        return timed

    def _open(self, command: wire.Start) -> wire.Opened:
        import torch

        from autobatch.devices import open_backend
        from autobatch.probe.measure import Measurer
        from autobatch.workload import Trainer, model_bytes

        _seed_everything(command.seed)
        recipe = command.recipe
        parts = self._guard("import", lambda: _load_parts(recipe), recipe)
        samples, val_samples = self._guard("load", lambda: _open_samples(parts, recipe), recipe)
        backend = open_backend(command.device)
        backend.warm_up()
        on_host = backend.torch_device == "cpu" and parts.made is not None
        backend.limit_memory(command.memory_bytes, model_bytes(parts.made) if on_host and parts.made else 0)
        trainer = self._guard(
            "build",
            lambda: Trainer(parts, samples, val_samples, backend.torch_device, self._on_phase),
            recipe,
        )
        self._measurer = Measurer(backend, trainer, command.seed)
        return wire.Opened(
            device=backend.describe(),
            workload=trainer.describe(),
            torch=str(torch.__version__),
            watch_bytes=getattr(backend, "watch_bytes", None),
        )

    def _on_phase(self, name: str) -> None:
        # Rounds are timed: there, telling would cost more than some steps take.
        if not self._in_round:
            self._tell(wire.Phase(name=name))

    def _guard(self, phase: str, work: Callable[[], Any], recipe: wire.Recipe) -> Any:
        """The result of `work`, its failures told as errors of the target."""
        self._tell(wire.Phase(name=phase))
        name = f"`{recipe.target}`" if recipe.target else "the model"
        try:
            return work()
        except AutobatchError:
            raise
        except SystemExit as stopped:
            raise TargetError(
                f"{name} called `sys.exit` while {_DURING[phase]}",
                code="target_exits",
                facts=(f"exit status: {stopped.code}", *_at(stopped)),
                hint='put what should run only as a script under `if __name__ == "__main__":`',
            ) from None
        # What a file raises may be no Exception: `pytest.skip` and its like derive from BaseException.
        except BaseException as error:
            if classify(error) is Cause.OUT_OF_MEMORY:
                raise DeviceError(
                    "the model alone does not fit into the memory limit",
                    code="nothing_fits",
                    facts=(told(error),),
                    hint="raise `--memory-limit`, stop other processes on the device, or use a smaller model",
                ) from None
            raise TargetError(
                f"{name} raised an error while {_DURING[phase]}",
                code="target_raises",
                facts=(told(error), *_at(error)),
            ) from None


def _load_parts(recipe: wire.Recipe) -> Parts:
    from autobatch import shipping
    from autobatch.targets import load_parts

    sys.path[:] = [*recipe.sys_path, *(one for one in sys.path if one not in recipe.sys_path)]
    return shipping.unpack(recipe.payload) if recipe.payload else load_parts(recipe.target)


def _open_samples(parts: Parts, recipe: wire.Recipe) -> tuple[Any, Any]:
    from autobatch.samples import SyntheticSamples, open_samples

    if recipe.input_shape is not None:
        return SyntheticSamples(recipe.input_shape, recipe.classes), None
    if parts.dataset is None:
        raise TargetError(
            f"`{recipe.target}` has no data set",
            code="no_dataset",
            facts=("looked for `build_dataset()`, `dataset`, `train_dataset`, `train_dataloader`",),
            hint="add `dataset = ...` to the file, or give `--input-shape 3,32,32` for memory and speed only",
        )
    val_samples = (
        None
        if parts.val_dataset is None
        else open_samples(parts.val_dataset, parts.val_collate_fn or parts.collate_fn)
    )
    return open_samples(parts.dataset, parts.collate_fn), val_samples


def _at(error: BaseException) -> tuple[str, ...]:
    place = where(error)
    return (f"at {place}",) if place else ()


def _decoded(line: bytes) -> wire.Command | None:
    import msgspec

    try:
        command: wire.Command = wire.decode_command(line)
        return command
    except msgspec.MsgspecError:
        return None


def _take_over_streams() -> tuple[BinaryIO, BinaryIO]:
    """Private descriptors for the conversation; what the user's code prints goes to standard error."""
    commands = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return commands, replies


def _import_torch() -> None:
    """Imports what every session needs; the first optimizer would import torch._dynamo, for seconds."""
    import cloudpickle  # noqa: F401
    import numpy  # noqa: F401
    import torch._dynamo  # noqa: F401

    import autobatch.devices.cpu
    import autobatch.probe.measure
    import autobatch.samples
    import autobatch.shipping
    import autobatch.workload  # noqa: F401

    # What was imported stays: no later collection has to walk it, and no fork has to copy it.
    gc.freeze()


def _seed_everything(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _answer_for_descendants() -> None:
    """Makes this process the heir of all that sessions start and leave, and SIGTERM the end of all of it."""
    # The caller's own settings come along: with SIGCHLD ignored, no session could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, _end_everything)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_everything(*_: object) -> NoReturn:
    _end_leftovers()
    os._exit(_ENDED_BY_PARENT)


def _end_leftovers() -> None:
    """Kills all descendants, wherever they went: an orphan of a session is a child of this process."""
    import psutil

    deadline = time.monotonic() + _LEFTOVERS_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process().children(recursive=True):
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

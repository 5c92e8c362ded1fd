"""The parent's end of a worker process: start it, talk to it with a time limit, end it for certain."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from autobatch.devices import host
from autobatch.engines import messages, process_tree
from autobatch.engines.interpreter import python_command
from autobatch.engines.worker_errors import (
    WorkerDiedError,
    WorkerHungError,
    WorkerStoppedError,
    WorkerTookTooMuchError,
)
from autobatch.records.errors import AutobatchError
from autobatch.workload import compilation

_PROGRAM = "from autobatch.worker.main import main; main()"
# Set in every worker, so that a model file that calls autobatch while it is imported can be refused.
IN_WORKER = "AUTOBATCH_WORKER"
_POLL_SECONDS = 0.01
# Seconds between two questions whether another rank has failed.
_STOPPED_SECONDS = 0.5
# Compiling for one batch size may take as long as that many trials.
COMPILE_TRIALS = 5
# A worker imports torch before its first session, from a cold disk perhaps; nothing of the user's runs then.
BOOT_TIMEOUT_SECONDS = 600.0


class WorkerProcess:
    """A worker: a process that forks sessions, and its current session.

    `compile_seconds`: seconds that its sessions have spent in torch.compile, which has a separate time limit.
    `session_begin`: when its last session began, by the monotonic clock.
    """

    def __init__(self, environment: Mapping[str, str], on_output: Callable[[str], None]) -> None:
        self._on_output = on_output
        self._replies: queue.Queue[messages.Reply | None] = queue.Queue()
        self._session_pid: int | None = None
        self._phase = ""
        self.compile_seconds = 0.0
        self.session_begin = 0.0
        # When compiling began, and how much time the command had left then.
        self._paused: tuple[float, float] | None = None
        self.watch_bytes: int | None = None
        self._process = subprocess.Popen(
            python_command(_PROGRAM),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", IN_WORKER: "1", **environment},
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_replies, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def has_session(self) -> bool:
        return self._session_pid is not None

    def ask(
        self,
        command: messages.Command,
        timeout_seconds: float,
        stopped: Callable[[], bool] = lambda: False,
    ) -> messages.Reply:
        """The reply to a command; the time for the first of a session counts from the session's beginning.

        Raises WorkerDiedError, WorkerHungError, WorkerTookTooMuchError or, as soon as it has `stopped`,
        WorkerStoppedError; the session is gone then, and the next Start gets a fresh one.
        """
        self._phase = ""
        self._paused = None
        try:
            assert self._process.stdin is not None
            messages.send(self._process.stdin, command)  # type: ignore[arg-type]
        except (BrokenPipeError, OSError):
            raise self._died() from None
        begins = isinstance(command, (messages.Start, messages.ListDevices))
        deadline = time.monotonic() + (BOOT_TIMEOUT_SECONDS if begins else timeout_seconds)
        while True:
            reply = self._next_reply(deadline, stopped)
            if isinstance(reply, messages.Began):
                self._session_pid = reply.pid
                self.session_begin = time.monotonic()
                deadline = self.session_begin + timeout_seconds
            elif isinstance(reply, messages.Phase):
                deadline = self._enter(reply.name, deadline, timeout_seconds)
            elif isinstance(reply, messages.Exited):
                self._session_pid = None
                raise WorkerDiedError(reply.status, self._phase)
            else:
                return reply

    def _enter(self, phase: str, deadline: float, timeout_seconds: float) -> float:
        """The deadline once a phase has begun: compiling has a separate one, then the old one moves on."""
        begin = time.monotonic()
        if phase == compilation.BEGINS:
            self._paused = begin, deadline - begin
            deadline = begin + COMPILE_TRIALS * timeout_seconds
        elif phase == compilation.ENDS and self._paused is not None:
            compile_begin, left_seconds = self._paused
            self._paused = None
            self.compile_seconds += begin - compile_begin
            deadline = begin + left_seconds
        self._phase = phase
        return deadline

    def end_session(self) -> None:
        """Kills the session with all that it started, and waits until it is gone."""
        if self._session_pid is None:
            return
        process_tree.kill(self._session_pid)
        deadline = time.monotonic() + 10.0
        while self._session_pid is not None:
            try:
                reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                reply = None
            if reply is None:
                self.close()
            elif isinstance(reply, messages.Exited):
                self._session_pid = None
        self.watch_bytes = None

    def close(self) -> None:
        """Ends the worker and everything that it started. Safe to call twice."""
        self._session_pid = None
        with interrupts_held():
            self._close()

    def _close(self) -> None:
        if self.alive:
            process_tree.kill(self._process.pid)
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        for thread, stream in zip(self._threads, (self._process.stdout, self._process.stderr), strict=True):
            thread.join(timeout=1.0)
            # A process that escaped may still hold the other end, and the reader with it.
            if stream is not None and not thread.is_alive():
                stream.close()

    def _next_reply(self, deadline: float, stopped: Callable[[], bool]) -> messages.Reply:
        asked = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                reply = self._replies.get(timeout=_POLL_SECONDS)
                if reply is None:
                    raise self._died()
                return reply
            if time.monotonic() > deadline:
                phase = self._phase
                self._end_or_close()
                raise WorkerHungError(phase)
            if time.monotonic() > asked + _STOPPED_SECONDS:
                asked = time.monotonic()
                self._end_if(stopped())
            self._watch_memory()

    def _end_if(self, stopped: bool) -> None:
        if stopped:
            phase = self._phase
            self._end_or_close()
            raise WorkerStoppedError(phase)

    def _end_or_close(self) -> None:
        """Ends the session; before there is one, the worker."""
        if self.has_session:
            self.end_session()
        else:
            self.close()

    def _watch_memory(self) -> None:
        if self.watch_bytes is None or self._session_pid is None:
            return
        resident = host.process_status(self._session_pid).get("VmRSS", 0)
        if resident > self.watch_bytes:
            phase = self._phase
            self.end_session()
            raise WorkerTookTooMuchError(resident, phase)

    def _died(self) -> WorkerDiedError:
        """The whole worker is gone, not only its session."""
        self.close()
        return WorkerDiedError(self._process.returncode, self._phase)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _read_replies(self) -> None:
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, b""):
            with contextlib.suppress(msgspec.MsgspecError):
                self._replies.put(messages.decode_reply(line))
        self._replies.put(None)

    def _read_output(self) -> None:
        assert self._process.stderr is not None
        for line in iter(lambda: self._process.stderr.readline(1 << 16), b""):  # type: ignore[union-attr]
            with contextlib.suppress(Exception):
                self._on_output(line.decode(errors="replace").rstrip("\n"))


def start_worker(environment: Mapping[str, str], on_output: Callable[[str], None]) -> WorkerProcess:
    """A new worker. Raises AutobatchError where the system starts none."""
    try:
        return WorkerProcess(environment, on_output)
    except OSError as error:
        raise AutobatchError(
            "no worker process can be started",
            code="no_worker",
            facts=(str(error),),
            hint="free memory, or allow more processes and open files (`ulimit -a` shows the limits)",
        ) from error


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Lets Ctrl-C wait until the end of the block, so that none comes between a process and its end."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)

"""A measured command: started with hooks, spoken to at its optimizer steps, ended with all its processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil

from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Outcome
from autobatch.scripts import refusals
from autobatch.scripts.command import Command
from autobatch.scripts.messages import Observation

INJECTED = Path(__file__).parent / "injected"
# Optimizer steps that show how a script trains.
FIRST_STEPS = 10
_OUTPUT_LINES = 40
_POLL_SECONDS = 0.05
# Words of torch and of systems for memory that is not there.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc", "memoryerror")
# Trackers that a measurement must not write to.
_SILENT = {
    "WANDB_MODE": "disabled",
    "COMET_MODE": "disabled",
    "NEPTUNE_MODE": "debug",
    "CLEARML_OFFLINE_MODE": "1",
    "DISABLE_MLFLOW_INTEGRATION": "TRUE",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


class ScriptEndedError(Exception):
    """The command has ended, or was ended, before it answered. `outcome` says how."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class ScriptProcess:
    """One run of a command. Every wait has a time limit; `close` ends all processes of the command."""

    def __init__(
        self,
        command: Command,
        scratch: Path,
        *,
        in_code: Mapping[str, object] | None = None,
        limit_bytes: int | None = None,
        steps: int = FIRST_STEPS,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`steps`: those that `observe` takes. `variables`: of the environment, where the user sets none."""
        self._events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self._links: dict[int, socket.socket] = {}
        self._ranks: dict[int, int] = {}
        self._failure: dict[str, Any] | None = None
        self._saw_torch = False
        self._output: deque[str] = deque(maxlen=_OUTPUT_LINES)
        self._closed = False
        path = str(scratch / f"link-{time.monotonic_ns()}")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(path)
        self._server.listen(64)
        settings = {
            "socket": path,
            "scratch": str(scratch),
            "apply": in_code,
            "limit_bytes": limit_bytes,
            "steps": steps,
        }
        try:
            self._process = subprocess.Popen(
                command.words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**(variables or {}), **_environment(command, scratch, settings)},
                start_new_session=True,
            )
        except OSError as error:
            self._server.close()
            raise refusals.cannot_start(command.words[0], error) from error
        for target in (self._accept, self._read_output):
            threading.Thread(target=target, daemon=True).start()

    # Conversation

    def observe(self, seconds: float) -> Observation:
        """The first steps of the training, of its first rank; the others wait beside it.

        Raises TargetError for a script that can't be measured, ScriptEndedError for one that fails.
        """
        deadline = time.monotonic() + seconds
        first: Observation | None = None
        waiting = 1
        while waiting:
            link, event = self._next(deadline)
            kind = event["event"]
            if kind == "observed":
                observation = msgspec.convert(event, Observation, strict=False)
                if first is not None and observation.rank in self._ranks.values():
                    self._send(link, {"do": "release"})
                    continue
                self._ranks[link] = observation.rank
                waiting = observation.world_size - len(self._ranks)
                if first is None or observation.rank == 0:
                    first = observation
            else:
                self._hear(kind, event)
        assert first is not None
        return first

    def ask(self, order: Mapping[str, object], seconds: float) -> list[dict[str, Any]]:
        """The results of all ranks, by rank. Raises ScriptEndedError."""
        deadline = time.monotonic() + seconds
        for link in self._ranks:
            self._send(link, order)
        results: dict[int, dict[str, Any]] = {}
        while len(results) < len(self._ranks):
            link, event = self._next(deadline)
            if event["event"] == "result" and link in self._ranks:
                results[self._ranks[link]] = event
            elif event["event"] == "observed":
                # Another training that the command has started: it runs as it is.
                self._send(link, {"do": "release"})
            else:
                self._hear(event["event"], event)
        return [results[rank] for rank in sorted(results)]

    def release(self, seconds: float) -> int:
        """Let the training run to its own end, without hooks at work. Returns its exit status."""
        for link in self._ranks:
            self._send(link, {"do": "release"})
        return self._process.wait(seconds)

    def _hear(self, kind: str, event: dict[str, Any]) -> None:
        """Remember a crash. Raises TargetError for an event that makes a script unmeasurable."""
        if kind == "torch":
            self._saw_torch = True
        elif kind == "crashed":
            self._failure = event
        else:
            error = refusals.of_event(kind, event)
            if error is not None:
                raise error

    def _next(self, deadline: float) -> tuple[int, dict[str, Any]]:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._events.get(timeout=_POLL_SECONDS)
            if self._process.poll() is not None and self._events.empty():
                time.sleep(_POLL_SECONDS)
                if self._events.empty():
                    raise self._ended()
            if time.monotonic() > deadline:
                raise ScriptEndedError(Outcome.TIMEOUT, "the time for it ended")

    def _ended(self) -> AutobatchError | ScriptEndedError:
        """How the command has ended by itself."""
        status = self._process.returncode
        text = "\n".join(self._output)
        if self._failure is not None:
            text = f"{self._failure['kind']}: {self._failure['text']}"
        if status == -signal.SIGKILL:
            return ScriptEndedError(Outcome.CRASHED, "killed by SIGKILL")
        if any(word in text.lower() for word in _NO_MEMORY) or (self._failure or {}).get("out_of_memory"):
            return ScriptEndedError(Outcome.OUT_OF_MEMORY, text.splitlines()[-1][:300] if text else "")
        if not self._ranks and status == 0:
            return refusals.no_steps() if self._saw_torch else refusals.no_torch(tuple(self._output)[-3:])
        last = text.splitlines()[-1][:300] if text else f"exit status {status}"
        return ScriptEndedError(Outcome.FAILED, last)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> tuple[str, ...]:
        """The last lines that the command has printed."""
        return tuple(self._output)

    # Its end

    def close(self) -> None:
        """End all processes of the command. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        processes: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            processes = psutil.Process(self._process.pid).children(recursive=True)
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        self._server.close()
        for link in self._links.values():
            link.close()

    # Threads

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._server.accept()
                self._links[link.fileno()] = link
                threading.Thread(target=self._read, args=(link, link.fileno()), daemon=True).start()

    def _read(self, link: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError), link.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._events.put((number, json.loads(line)))

    def _send(self, link: int, order: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            self._links[link].sendall(json.dumps(order).encode() + b"\n")

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output, contextlib.suppress(OSError, ValueError):
            for line in output:
                self._output.append(line.decode(errors="replace").rstrip("\n"))


def _environment(command: Command, scratch: Path, settings: Mapping[str, object]) -> dict[str, str]:
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **os.environ,
        **command.environment,
        **_SILENT,
        "MLFLOW_TRACKING_URI": (scratch / "mlruns").as_uri(),
        "TMPDIR": str(temporary),
        # Compilers are other programs, which read and write these for real.
        "TORCHINDUCTOR_CACHE_DIR": str(temporary / "inductor"),
        "TRITON_CACHE_DIR": str(temporary / "triton"),
        **injection(command, settings),
    }


def injection(command: Command, settings: Mapping[str, object]) -> dict[str, str]:
    """The variables that make every Python of a command load the hooks."""
    paths = command.environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(INJECTED), paths])),
        "AUTOBATCH_SCRIPT": json.dumps(settings),
    }

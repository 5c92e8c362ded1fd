"""Carries cases of faults out, against real sessions of one long-lived worker."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.engines.worker_failures import START_TRIALS
from autobatch.measurement.budget import Budget
from autobatch.measurement.check import GeneralizationCheck
from autobatch.measurement.climb import Climb
from autobatch.records.check import CheckStatus
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Trial
from tests.faults.cases import NOT_RUN, OK, Case
from tests.faults.probing import MADE_BY_TORCH, MARK, running
from tests.shared_worker import SharedWorker

# A climb has to come to its end, however busy the machine is, and so has a check that is to pass.
_BUDGET_SECONDS, _BUDGET_SECONDS_OF_PASSED_CHECK = 60.0, 90.0
# One that hangs takes it all.
_BUDGET_SECONDS_OF_CHECK = 12.0
# What the machine may add to the limits of a case: a fresh worker that imports torch, on a busy machine.
_SLACK_SECONDS = 60.0
_CGROUP_BYTES = 64 << 20

_MODEL = """
import atexit, ctypes, os, resource, signal, subprocess, sys, threading, time
from pathlib import Path
import torch
from torch import nn

HERE = Path(__file__).parent
PHASE = {phase!r}
ONCE = {once!r}
struck = []

def trouble(found=()):
{code}

def at(phase, size=3, found=()):
    if phase == PHASE and size > 2 and not (ONCE and struck):
        struck.append(size)
        return trouble(found)

class Rows(torch.utils.data.Dataset):
    real = 64

    def __len__(self):
        at("open")
        return 64

    def __getitem__(self, index):
        if index >= Rows.real:
            raise IndexError(f"only {{Rows.real}} are there")
        return torch.full((8,), index / 64), index % 4

    def __getitems__(self, indices):
        found = [self[index] for index in indices]
        return at("load", len(indices), found) or found

class Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        at("backward", len(gradient))
        return gradient

class Net(nn.Module):
    scale = 1.0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, inputs):
        Optimizer.size = len(inputs)
        at("forward" if self.training else "evaluation", len(inputs))
        if (HERE / "checking").exists():
            at("check")
        return Pass.apply(self.layer(inputs) * Net.scale)

class Optimizer(torch.optim.SGD):
    size = 0

    def step(self, closure=None):
        at("step", Optimizer.size)
        return super().step(closure)

def make_optimizer(parameters):
    return Optimizer(parameters, lr=0.01)

def build_model():
    at("build")
    return Net()

dataset = Rows()
at("import")
if PHASE == "shutdown":
    atexit.register(trouble)
    signal.signal(signal.SIGTERM, lambda *_: trouble())
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a case went: its end, the sizes of its rows that passed, the seconds, and what was left behind.

    `problems` is empty where the case ended as it must.
    """

    end: str
    rows: tuple[int, ...]
    seconds: float
    problems: tuple[str, ...]


class Bench:
    """One worker that is handed on from case to case; a case that kills it costs a new one."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="autobatch-faults-")
        self._scratch = Path(self._folder.name) / "scratch"
        self._scratch.mkdir()
        self._cgroup, self._why_no_cgroup = _make_cgroup()
        self._mark = str(uuid.uuid4())
        environment = {MARK: self._mark, "TMPDIR": str(self._scratch)}
        if self._cgroup is not None:
            environment["AUTOBATCH_TEST_CGROUP"] = str(self._cgroup)
        self._worker = SharedWorker(environment)

    def close(self) -> None:
        self._worker.close()
        if self._cgroup is not None:
            self._cgroup.rmdir()
        self._folder.cleanup()

    def missing(self, case: Case) -> str:
        """Why a case can't be tried here; empty where it can."""
        if case.fault.needs == "cgroup":
            return self._why_no_cgroup
        if case.fault.needs == "mount" and not can_mount():
            return "no file system can be mounted here"
        return "" if sys.platform == "linux" else "sessions are forked on Linux only"

    def carry_out(self, case: Case) -> Ended:
        """The case, from a fresh model file to the look for what it left."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            path = Path(folder) / "model_file.py"
            path.write_text(_source(case))
            limits = Limits(
                max_batch=4,
                budget_seconds=_BUDGET_SECONDS,
                trial_timeout_seconds=case.trial_timeout_seconds,
                memory_bytes=case.fault.memory_bytes,
            )
            engine = self._worker.engine(messages.Recipe(target=str(path)), limits)
            begin = time.monotonic()
            try:
                end, trials = _climb(engine, limits, case, Path(folder))
            finally:
                engine.close()
            seconds = time.monotonic() - begin
        rows = tuple(sorted({trial.batch_size for trial in trials if trial.ok}))
        left = self._left()
        return Ended(end, rows, seconds, tuple(_problems(case, end, rows, seconds, left)))

    def _left(self) -> list[str]:
        """What a case has left: processes, temporary files, shared memory."""
        processes = [one for one in running(self._mark) if not _is_worker(one)]
        files = [one.name for one in self._scratch.iterdir() if not one.name.startswith(MADE_BY_TORCH)]
        return [
            *(f"process {one.pid}" for one in processes),
            *(f"temporary file {name}" for name in files),
            *(f"shared memory {name}" for name in _shared_memory(self._mark)),
        ]


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench that is closed at the end."""
    opened = Bench()
    try:
        yield opened
    finally:
        opened.close()


def _check_seconds(case: Case) -> float:
    if case.phase != "check":
        return 0.0
    return _BUDGET_SECONDS_OF_PASSED_CHECK if case.end == OK else _BUDGET_SECONDS_OF_CHECK


def _source(case: Case) -> str:
    code = "\n".join(f"    {line}" for line in case.fault.code.strip().splitlines())
    return _MODEL.format(phase=case.phase, once=case.once, code=code)


def _climb(engine: LocalEngine, limits: Limits, case: Case, folder: Path) -> tuple[str, tuple[Trial, ...]]:
    """(the end, the trials): the first outcome of a trial that is not OK, or the code of an error.

    For a fault in the check it goes on to that, and tells the model file in `folder` so.
    """
    climb = Climb(engine, limits)
    try:
        curve = climb.run()
        trials = curve.trials
        if case.phase == "check":
            (folder / "checking").touch()
            budget = Budget(
                _check_seconds(case), lambda: engine.busy_seconds, start_seconds=engine.busy_seconds
            )
            check = GeneralizationCheck(engine, curve, limits, budget).run()
            return NOT_RUN if check.status is CheckStatus.NOT_RUN else OK, trials
    except AutobatchError as error:
        return error.code, error.trials
    except Exception as error:
        return f"unnamed: {type(error).__name__}: {error}", tuple(climb.trials)
    return next((str(trial.outcome) for trial in trials if not trial.ok), OK), trials


def _problems(case: Case, end: str, rows: tuple[int, ...], seconds: float, left: list[str]) -> Iterator[str]:
    if end != case.end:
        yield f"ended as {end}, not as {case.end}"
    if not set(case.rows) <= set(rows):
        yield f"rows {rows}, not {case.rows}"
    limit = _BUDGET_SECONDS + _check_seconds(case)
    limit += (START_TRIALS + 1) * case.trial_timeout_seconds + _SLACK_SECONDS
    if seconds > limit:
        yield f"took {seconds:.1f} s, more than {limit:g} s"
    yield from (f"left {one}" for one in left)


def _is_worker(process: psutil.Process) -> bool:
    """True for the worker itself, whose parent is this process."""
    try:
        return process.ppid() == os.getpid()
    except psutil.Error:
        return False


def _shared_memory(mark: str) -> list[str]:
    """The named shared memory that carries a mark: other programs on the machine have theirs."""
    folder = Path("/dev/shm")
    return [one.name for one in folder.glob(f"{mark}*")] if folder.is_dir() else []


def _make_cgroup() -> tuple[Path | None, str]:
    """A control group of little memory for sessions to enter, or why there is none."""
    name = f"autobatch-faults-{os.getpid()}"
    for root, limit in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        folder = Path(root) / name
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if not (folder / limit).exists():
                raise FileNotFoundError(limit)
            (folder / limit).write_text(str(_CGROUP_BYTES))
            return folder, ""
        except OSError:
            folder.rmdir()
    return None, "no control group with a memory limit can be made here"


def can_mount() -> bool:
    """True where a child may make a mount namespace of its own."""
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        os._exit(1 if libc.unshare(0x00020000) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

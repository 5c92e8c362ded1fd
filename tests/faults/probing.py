"""Model files that go wrong on purpose, the command line as a process, and a look for what it left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import psutil

from autobatch.storage import codec

# Generous, since a busy machine takes long to import torch. Below the limit of pytest, which ends it all.
PATIENCE_SECONDS = 280.0
MARK = "AUTOBATCH_TEST_MARK"
# The folder of torch's compile cache: the first optimizer of any training makes it.
MADE_BY_TORCH = "torchinductor_"

_MODEL = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import TensorDataset

HERE = Path(__file__).parent
dataset = TensorDataset(torch.randn(512, 8), torch.randint(0, 4, (512,)))

def trouble(size):
{trouble}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, inputs):
        trouble(len(inputs))
        return self.layer(inputs)

def build_model():
    return Net()
"""

# Tells the test that batch size 8 is being tried, then waits to be ended.
WAIT_AT_8 = """
if size >= 8:
    (HERE / "reached").touch()
    time.sleep(1000)
"""


def write_model(folder: Path, trouble: str = "pass") -> Path:
    """A tiny model file that runs `trouble` in each forward pass, with the batch size in `size`."""
    body = "\n".join(f"    {line}" for line in trouble.strip().splitlines())
    path = folder / "model_file.py"
    path.write_text(_MODEL.format(trouble=body))
    return path


class Run:
    """One `autobatch` process in a folder of its own, with a temporary folder of its own."""

    def __init__(self, folder: Path, *arguments: str, stderr: int = subprocess.PIPE) -> None:
        self.mark = str(uuid.uuid4())
        # Short: torch's DataLoader makes sockets in it, whose path may have 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix="ab-"))
        weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autobatch", *arguments],
            cwd=folder,
            env={**os.environ, MARK: self.mark, "TMPDIR": str(self.scratch), "COLUMNS": "80"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        self.stdout = ""
        self.stderr = ""

    def finish(self) -> int:
        """The exit status, once it has ended and its output is read."""
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            for one in self.left_running():
                one.kill()
            self.process.kill()
            self.process.communicate()
            raise
        self.stderr = self.stderr or ""
        return self.process.returncode

    def wait_for(self, path: Path) -> None:
        """Returns when the file exists; fails with what was told where the process ends before that."""
        wait_until(lambda: path.exists() or self.process.poll() is not None, f"{path.name} appears")
        if not path.exists():
            self.finish()
            raise AssertionError(f"it ended too early\n{self.stdout}\n{self.stderr}")

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def document(self) -> dict[str, Any]:
        """The JSON on standard output, checked against the schema."""
        found: dict[str, Any] = json.loads(self.stdout)
        jsonschema.Draft202012Validator(codec.schema()).validate(found)
        return found

    def left_running(self) -> list[psutil.Process]:
        """Processes that carry this run's mark, itself included."""
        return running(self.mark)

    def left_in_scratch(self) -> list[str]:
        """Names in the temporary folder."""
        return [one.name for one in self.scratch.iterdir() if not one.name.startswith(MADE_BY_TORCH)]

    def assert_nothing_left(self) -> None:
        assert not self.left_running()
        assert self.left_in_scratch() == []


def run(folder: Path, *arguments: str) -> Run:
    """A run that has ended."""
    started = Run(folder, *arguments)
    started.finish()
    return started


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Returns when the condition holds; fails after a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE_SECONDS:g} s: {what}"
        time.sleep(0.02)


def running(mark: str) -> list[psutil.Process]:
    """Living processes that carry a mark in their environment."""
    return [one for one in psutil.process_iter() if _environment(one).get(MARK) == mark]


def outcomes(document: dict[str, Any]) -> dict[int, list[str]]:
    """The outcomes of each batch size, in the order in which they came."""
    found: dict[int, list[str]] = {}
    for trial in document["trials"]:
        found.setdefault(trial["batch_size"], []).append(trial["outcome"])
    return found


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except psutil.Error:
        return {}

"""A machine with NVIDIA GPUs made of a text file, behind the real pynvml.

Every case runs in a Python process of its own, because pynvml keeps the library that it loaded. Most are
forked from one that has imported torch, which takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

# What each case finds ready: `answer` hands its result back, `set_state` changes the machine in one
# move (a reader sees the old file or the new one), and `sessions` counts what was left open.
PRELUDE = """
import ctypes, dataclasses, json, os, sys, time
from autobatch.devices import nvml

def answer(result):
    print(json.dumps(result, default=dataclasses.asdict))

def set_state(text):
    path = os.environ["NVML_STAND_IN_STATE"]
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)

def sessions():
    return ctypes.CDLL("libnvidia-ml.so.1").stand_in_sessions()
"""


SERVER = """
import json, os, sys, traceback
import torch
from autobatch.devices import nvml

for line in sys.stdin:
    asked = json.loads(line)
    process = os.fork()
    if process == 0:
        status = 1
        with open(asked["stdout"], "w") as sys.stdout, open(asked["stderr"], "w") as sys.stderr:
            try:
                os.environ.update(asked["environment"])
                exec(asked["program"], {"__name__": "__main__"})
                status = 0
            except BaseException:
                traceback.print_exc()
        os._exit(status)
    print(os.waitpid(process, 0)[1], flush=True)
"""


class ForkingPython:
    """A Python process with a library for NVML. It forks a process for each case."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=ROOT,
            env=_environment(library),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_case(self, folder: Path, state: str, case: str, **environment: str) -> Any:
        """The answer of the case on a machine with this state."""
        state_file, stdout, stderr = folder / "state", folder / "stdout", folder / "stderr"
        state_file.write_text(state)
        asked = {
            "program": PRELUDE + case,
            "environment": {"NVML_STAND_IN_STATE": str(state_file), **environment},
            "stdout": str(stdout),
            "stderr": str(stderr),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "0\n", stderr.read_text()
        return json.loads(stdout.read_text())

    def close(self) -> None:
        self._process.communicate("")


def _environment(library: Path) -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(library.parent), "PYTHONPATH": str(ROOT)}


def run_case(library: Path, state_file: Path, state: str, case: str, **environment: str) -> Any:
    """What the case answered on a machine with this library and this state."""
    state_file.write_text(state)
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + case],
        cwd=ROOT,
        env={**_environment(library), "NVML_STAND_IN_STATE": str(state_file), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def build(folder: Path, *options: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("the stand-in for NVML needs Linux and a C compiler")
    library = folder / "libnvidia-ml.so.1"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, *options, HERE / "stand_in.c", "-o", library], check=True)
    return library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def python(library: Path) -> Iterator[ForkingPython]:
    with contextlib.closing(ForkingPython(library)) as opened:
        yield opened


@pytest.fixture
def run(python: ForkingPython, tmp_path: Path) -> Run:
    """Runs a case on a machine with a present-day driver."""
    return partial(python.run_case, tmp_path)


@pytest.fixture
def run_without_torch(library: Path, tmp_path: Path) -> Run:
    """The same in a process that has not imported torch."""
    return partial(run_case, library, tmp_path / "state")


@pytest.fixture
def run_with(tmp_path: Path) -> Callable[..., Run]:
    """Runs cases on machines whose driver was compiled with other options."""
    return lambda *options: partial(run_case, build(tmp_path, *options), tmp_path / "state")


@pytest.fixture
def run_without_library(tmp_path: Path) -> Run:
    """Runs a case where the library can't be loaded, even on a machine that has the real one.

    A file that isn't a library ends the loader's search; an empty folder wouldn't.
    """
    library = tmp_path / "libnvidia-ml.so.1"
    library.write_text("not a library")
    return partial(run_case, library, tmp_path / "state")

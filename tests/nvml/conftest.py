"""A machine with NVIDIA GPUs made of a text file, behind the real pynvml.

Every case runs in a Python process of its own, because pynvml keeps the library that it loaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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


def run_case(library: Path, state_file: Path, state: str, case: str, **environment: str) -> Any:
    """What the case answered on a machine with this library and this state."""
    state_file.write_text(state)
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + case],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(library.parent),
            "NVML_STAND_IN_STATE": str(state_file),
            "PYTHONPATH": str(ROOT),
            **environment,
        },
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


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Run:
    """Runs a case on a machine with a present-day driver."""
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

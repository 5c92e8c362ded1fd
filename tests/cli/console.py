"""The real command line in a folder with a model file, in processes of its own or in this one."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from autobatch.cli.commands import main
from autobatch.storage import codec

QUICK = ("--device", "cpu", "--max-batch", "8")

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
dataset = (torch.randn(64, 12), torch.randint(3, (64,)))
# So few that whole trainings end at once, and a search long before its budget.
epochs = 4
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str


def autobatch() -> str:
    """The installed `autobatch` command of this environment."""
    found = shutil.which("autobatch", path=str(Path(sys.executable).parent))
    assert found is not None, "autobatch is not installed beside this Python"
    return found


# What would make another's terminal, or a make around the tests, show in what is printed.
_FOREIGN = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def called(folder: Path, *arguments: str) -> Ended:
    """The end of the command in this process, in `folder`: for what is refused before any work begins."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["autobatch", *arguments])
        with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return Ended(ended.value.code, stdout.getvalue(), stderr.getvalue())


def run(folder: Path, *commands: Sequence[str], environment: dict[str, str] | None = None) -> list[Ended]:
    """The ends of several commands that run side by side in `folder`; most of their time is start-up."""
    inherited = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    started = [
        subprocess.Popen(
            [*command],
            cwd=folder,
            env={**inherited, "CUDA_VISIBLE_DEVICES": "", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for command in commands
    ]
    try:
        printed = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        Ended(process.returncode, stdout, stderr)
        for process, (stdout, stderr) in zip(started, printed, strict=True)
    ]


@cache
def validator() -> jsonschema.Draft202012Validator:
    """Of the committed schema, which other programs rely on."""
    schema = json.loads(Path(codec.__file__).with_name("schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)

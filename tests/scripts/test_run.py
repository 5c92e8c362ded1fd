"""A command executed with an answer: its own streams and status, and the cache between two runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autobatch.records.limits import Limits
from autobatch.scripts import run
from autobatch.scripts.application import Application
from autobatch.scripts.command import Command
from autobatch.scripts.probe import ScriptAnswer
from autobatch.storage import cache, cache_folder
from tests.scripts.processes import SAMPLES, sample
from tests.scripts.test_application import ANSWER
from tests.scripts.test_probe import autobatch

RECIPE = {"epochs": 3.0}
COUNTS = SAMPLES / "counts.py"
LINE = next(
    number for number, line in enumerate(COUNTS.read_text().splitlines(), 1) if "loader = DataLoader(" in line
)


def execute(tuned: run.Tuned) -> subprocess.CompletedProcess[str]:
    """Another process that becomes the command."""
    program = (
        "from autobatch.scripts.run import Tuned, execute\n"
        "from autobatch.scripts.command import Command\n"
        f"execute({tuned!r})"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_a_command_keeps_its_streams_and_its_status():
    ended = execute(run.untouched(sample("counts.py", "a b")))
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "8 a b\n", "to standard error\n")


def test_a_loader_in_code_gets_its_size():
    in_code: dict[str, object] = {"file": str(COUNTS), "line": LINE, "current": 8, "batch_size": 32}
    ended = execute(run.Tuned(command=sample("counts.py"), in_code=in_code, summary=""))
    assert (ended.returncode, ended.stdout) == (7, "32\n")


def test_another_loader_keeps_its_size():
    in_code: dict[str, object] = {"file": str(COUNTS), "line": LINE + 1, "current": 8, "batch_size": 32}
    ended = execute(run.Tuned(command=sample("counts.py"), in_code=in_code, summary=""))
    assert ended.stdout == "8\n"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An answer in a cache of its own, and what it was kept for."""
    monkeypatch.setenv(cache_folder.FOLDER_VARIABLE, str(tmp_path / "cache"))
    source = tmp_path / "train.py"
    source.write_text("batch_size = 8")
    command = Command(words=("python", "train.py"))
    data = tmp_path / "data.bin"
    data.write_bytes(bytes(3 << 20))
    answer = ScriptAnswer(
        recommendation=ANSWER,
        application=Application(command=Command(words=("python", "train.py", "--bs", "64"))),
        same_batch_size=None,
        proven=True,
        knob="`--bs`",
        files=(str(source), str(data)),
    )
    run.keep(command, Limits(), RECIPE, answer)
    return {"command": command, "source": source, "data": data}


def test_the_same_command_is_answered_from_the_cache(kept: dict[str, Any]):
    found = run.cached(kept["command"], Limits(), RECIPE)
    assert found is not None
    assert found.command.words == ("python", "train.py", "--bs", "64")
    assert found.summary == "batch size 64"


def test_anything_else_is_measured_anew(
    kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    command = kept["command"]
    assert run.cached(command, Limits(), {"epochs": None}) is None
    assert run.cached(command, Limits(max_batch=32), RECIPE) is None
    assert run.cached(replace(command, words=("python", "other.py")), Limits(), RECIPE) is None
    kept["source"].write_text("batch_size = 16")
    assert run.cached(command, Limits(), RECIPE) is None
    kept["source"].write_text("batch_size = 8")
    assert run.cached(command, Limits(), RECIPE) is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert run.cached(command, Limits(), RECIPE) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.chdir(tmp_path)
    assert run.cached(command, Limits(), RECIPE) is None


def test_changed_data_are_measured_anew(kept: dict[str, Any]):
    assert run.cached(kept["command"], Limits(), RECIPE) is not None
    kept["data"].write_bytes(bytes(4 << 20))
    assert run.cached(kept["command"], Limits(), RECIPE) is None


def test_an_answer_is_an_entry_of_the_cache(kept: dict[str, Any]):
    (entry,) = cache.list_entries().entries
    assert entry.answer.batch_size == 64
    cache.clear()
    assert run.cached(kept["command"], Limits(), RECIPE) is None


def test_a_command_that_cannot_be_measured_runs_untouched_with_a_warning(tmp_path: Path):
    folder = tmp_path / "work"
    folder.mkdir()
    ended = autobatch(
        "run", "--", sys.executable, "-c", "import sys; print('hello'); sys.exit(3)", folder=folder
    )
    assert (ended.returncode, ended.stdout) == (3, "hello\n")
    (warning,) = [line for line in ended.stderr.splitlines() if line.startswith("warning: ")]
    assert "the command fails before its first steps" in warning

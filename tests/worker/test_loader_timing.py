"""A DataLoader whose workers could send no batch is not started, since its reader would wait forever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autobatch.engines import messages
from autobatch.worker import loader_timing

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems share tensors by files")
# Opens a socket as torch's workers do; prints what the check says, and whether there is a socket.
SOCKET = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from multiprocessing.connection import Listener
from autobatch.worker import loader_timing
try:
    Listener(family="AF_UNIX").close()
except OSError as error:
    assert "too long" in str(error), error
    print("fails")
print(loader_timing.why_workers_hang())
"""


class Unused:
    """Stands for a trainer whose loader must not be started."""

    def loader(self, *arguments: object) -> None:
        raise AssertionError("a loader was started")


def folder_of(parent: Path, length: int) -> Path:
    """A folder whose path has that many bytes."""
    missing = length - len(str(parent)) - 1
    if missing < 1:
        pytest.skip("the folder for temporary files of the tests is too long already")
    folder = parent / ("x" * missing)
    folder.mkdir()
    return folder


@LINUX
@pytest.mark.parametrize(("length", "fails"), [(75, False), (76, True)])
def test_the_check_is_right_to_the_byte(
    tmp_path_factory: pytest.TempPathFactory, length: int, fails: bool
) -> None:
    folder = folder_of(tmp_path_factory.getbasetemp(), length)
    command = [sys.executable, "-c", SOCKET, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ("fails" in ended.stdout) is fails
    assert ("1 byte too long" in ended.stdout) is fails


@LINUX
def test_a_loader_that_would_hang_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
    command = messages.TimeLoader(batch_size=4, workers=2, seconds=1.0, seed=0)
    reply = loader_timing.run(Unused(), command)  # type: ignore[arg-type]
    assert reply.batch_seconds is None
    assert "set `TMPDIR` to a shorter path" in reply.detail
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert torch.multiprocessing.get_sharing_strategy() == "file_descriptor"
    assert loader_timing.why_workers_hang() == ""


@pytest.mark.parametrize(
    ("turns", "seconds", "enough"),
    [
        (1, 0.999, False),
        (1, 1.0, True),
        (7, 0.9, False),
        (8, 0.125, True),
        (8, 0.12, False),
        (500, 0.13, True),
    ],
)
def test_a_quick_loader_is_timed_for_a_few_turns_and_a_slow_loader_for_the_time(
    turns: int, seconds: float, enough: bool
) -> None:
    assert loader_timing.is_enough(turns, seconds, 1.0) is enough

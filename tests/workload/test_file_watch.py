"""The files that a training reads are recorded, and any change to one of them is noticed.

A watch can't be removed from a process, so each training is opened in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from autobatch.records.cached import FilesRead
from autobatch.workload.file_watch import are_unchanged

TRAIN = """
import csv, os, part
rows = list(csv.reader(open("data.csv")))
try:
    open("options.ini").read()
except FileNotFoundError:
    pass
images = os.listdir("images")
open("ignored.pt", "w+").read()
open("train.log", "a").write("opened")
"""
OPENER = """
import os, sys
import msgspec
from autobatch.workload.file_watch import FileWatch
sys.path.insert(0, os.getcwd())
watch = FileWatch(ignored=os.path.abspath("ignored.pt"))
with watch:
    import train
print(msgspec.json.encode(watch.records(())).decode())
"""
ROOT = Path(__file__).parents[2]
FILES = {
    "train.py": TRAIN,
    "part.py": "width = 1\n",
    "data.csv": "1,2\n",
    "images/a.png": "",
    "notes.txt": "",
}


def opened(folder: Path, train: str = TRAIN) -> FilesRead:
    """The files that a process read which imported the training in a folder, written some time before."""
    for name, text in {**FILES, "train.py": train}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # The watch takes files that are younger than itself for changed, and clocks are coarse.
    done = subprocess.run(
        [sys.executable, "-c", f"import time; time.sleep(0.1)\n{OPENER}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return msgspec.json.decode(done.stdout, type=FilesRead)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FilesRead]:
    folder = tmp_path_factory.mktemp("training")
    return folder, opened(folder)


def test_every_kind_of_file_is_recorded(training: tuple[Path, FilesRead]) -> None:
    folder, record = training
    assert record.unseen == ""
    assert {str(folder / "train.py"), str(folder / "part.py")} <= record.sources.keys()
    assert str(folder / "data.csv") in record.files
    assert record.files[str(folder / "options.ini")] == ""
    assert str(folder / "train.log") not in record.files
    assert str(folder / "ignored.pt") not in record.files
    assert list(record.folders) == [str(folder / "images")]
    assert are_unchanged(record)


def undone(folder: Path, change: Callable[[Path], object]) -> Callable[[], None]:
    """Make the change; the function that is returned takes it back."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    change(folder)

    def undo() -> None:
        for path in [path for path in folder.rglob("*") if path.is_file() and path not in before]:
            path.unlink()
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)

    return undo


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "train.py").write_text(TRAIN + "\n# more"),
        lambda folder: (folder / "part.py").write_text("width = 2\n"),
        lambda folder: (folder / "part.py").unlink(),
        lambda folder: (folder / "csv.py").write_text("another module that `import csv` means"),
        lambda folder: (folder / "options.ini").write_text(""),
        lambda folder: (folder / "images" / "__init__.py").write_text("now a package"),
        lambda folder: (folder / "images" / "b.png").write_text(""),
        lambda folder: (folder / "images" / "a.png").rename(folder / "images" / "c.png"),
    ],
)
def test_a_change_is_noticed(training: tuple[Path, FilesRead], change: Callable[[Path], object]) -> None:
    folder, record = training
    undo = undone(folder, change)
    assert not are_unchanged(record)
    undo()
    assert are_unchanged(record)


def test_another_data_file_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    record = opened(tmp_path)
    data = tmp_path / "data.csv"
    before = data.stat()
    data.write_text("3,4\n")
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not are_unchanged(record)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / "train.py"),
        lambda folder: (folder / "notes.txt").write_text("another"),
        lambda folder: (folder / "report.html").write_text("beside the sources"),
        lambda folder: (folder / "train.log").write_text("written only"),
        lambda folder: (folder / "runs").mkdir(),
    ],
)
def test_a_change_that_no_training_sees_is_none(
    training: tuple[Path, FilesRead], change: Callable[[Path], object]
) -> None:
    folder, record = training
    change(folder)
    assert are_unchanged(record)


# The operator of torchvision, as torch sees it.
READ_FILE = """
import torch
library = torch.library.Library("image", "DEF")
library.define("read_file(str name) -> Tensor")
library.impl("read_file", lambda name: torch.zeros(1), "CompositeExplicitAutograd")
"""


def test_an_operator_that_was_not_called_reads_nothing(tmp_path: Path) -> None:
    assert opened(tmp_path, TRAIN + READ_FILE).unseen == ""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("os.system('true')", "another program was run"),
        ("import subprocess; subprocess.run(['true'])", "another program was run"),
        ("os.waitpid(os.fork() or os._exit(0), 0)", "another process was started"),
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "a connection was opened"),
        (READ_FILE + "torch.ops.image.read_file('a.png')", "`torchvision.io` reads files by itself"),
        ("open('made.txt', 'w').write('x'); open('made.txt').read()", "changed meanwhile"),
    ],
)
def test_reads_that_can_escape_are_said(tmp_path: Path, line: str, reason: str) -> None:
    record = opened(tmp_path, TRAIN + line)
    assert reason in record.unseen
    assert not are_unchanged(record)

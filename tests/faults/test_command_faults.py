"""Faults around the command itself: full disks, closed streams, and a bug in autobatch."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn

import autobatch
from autobatch.storage import codec
from tests.faults import driving
from tests.faults.probing import PATIENCE_SECONDS, write_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and its like")

PROBE = "probe model_file.py --max-batch 2 --budget 60s --no-check"
# For faults after the search: its answer comes from the cache in the folder.
KEPT = "AUTOBATCH_CACHE=$PWD/cache"


@dataclass(frozen=True)
class Ended:
    """How a shell command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str


def shell(folder: Path, command: str) -> Ended:
    """`command` in a shell in `folder`, where `autobatch` is this autobatch."""
    ended = subprocess.run(
        ["sh", "-c", command.replace("autobatch", f"{sys.executable} -m autobatch")],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert "Traceback" not in ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def rows(report: str) -> list[str]:
    """The batch sizes in the table of a report: its block below a line of columns."""
    table = next(block for block in report.split("\n\n") if block.split()[:2] == ["batch", "samples/s"])
    _, *lines = table.splitlines()
    return [line.split()[0] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model file and a result of it, measured without any standard stream."""
    made = tmp_path_factory.mktemp("command")
    write_model(made)
    ended = shell(made, f"{KEPT} autobatch {PROBE} --save result.json <&- >&- 2>&-")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "")
    return made


def test_closed_streams_do_not_disturb(folder: Path) -> None:
    found = autobatch.load(folder / "result.json")
    assert sorted({trial.batch_size for trial in found.trials}) == [1, 2]
    assert shell(folder, "autobatch show result.json -q 2>&-").stdout == f"{found.batch_size}\n"


def test_progress_that_cannot_be_written_costs_no_answer(folder: Path) -> None:
    ended = shell(folder, f"autobatch {PROBE} --save unseen.json 2>/dev/full")
    assert ended.status == 0
    assert [trial.batch_size for trial in autobatch.load(folder / "unseen.json").trials] == [1, 2]
    assert ended.stdout == shell(folder, "autobatch show unseen.json").stdout


def test_a_full_disk_behind_standard_output_is_told(folder: Path) -> None:
    for form in ("", "--json", "-q"):
        ended = shell(folder, f"autobatch show result.json {form} >/dev/full")
        assert ended.status == 1
        assert "error: the answer can't be written to standard output" in ended.stderr
        assert "No space left on device" in ended.stderr


def test_a_result_that_cannot_be_saved_is_printed(folder: Path) -> None:
    # Of 1,024 bytes at most: that a folder can be written to says nothing about its disk.
    ended = shell(folder, f"ulimit -f 2; {KEPT} autobatch {PROBE} --save limited.json")
    assert ended.status == 1
    assert rows(ended.stdout) == ["1", "2"]
    assert "error: the result can't be saved to `limited.json`" in ended.stderr
    assert "file too large" in ended.stderr
    assert not list(folder.glob("limited.json")) + list(folder.glob(".autobatch-*"))


@pytest.mark.skipif(not driving.can_mount(), reason="no file system can be mounted here")
def test_a_full_disk_leaves_the_rows_in_the_error_object(folder: Path) -> None:
    (folder / "full").mkdir()
    command = (
        "mount -t tmpfs -o size=4k none full && ! head -c 5000 /dev/zero >full/other && "
        f"{KEPT} autobatch {PROBE} --json --save full/result.json; ls -A full"
    )
    ended = shell(folder, f"unshare -m sh -c '{command}'")
    document, _, left = ended.stdout.rpartition("}\n")
    found = json.loads(document + "}")
    jsonschema.Draft202012Validator(codec.schema()).validate(found)
    assert (found["error"]["code"], left) == ("cannot_save", "other\n")
    assert "no space left on device" in found["error"]["facts"]
    assert [trial["batch_size"] for trial in found["trials"]] == [1, 2]


def test_a_full_disk_under_the_objects_of_find() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(autobatch.AutobatchError) as raised:
            autobatch.find(nn.Linear(1000, 4), (torch.zeros(8, 1000), torch.zeros(8, dtype=torch.long)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.code == "cannot_write"
    assert "TMPDIR" in raised.value.hint


def test_a_worker_that_cannot_be_started_is_told(folder: Path) -> None:
    ended = shell(folder, f"ulimit -n 8; autobatch {PROBE} --json")
    error = json.loads(ended.stdout)["error"]
    assert (ended.status, error["code"]) == (1, "no_worker")
    assert "Too many open files" in error["facts"][0]


def test_a_broken_torch_is_told(folder: Path) -> None:
    broken = folder / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('libtorch.so: cannot open shared object file')")
    ended = shell(folder, f"PYTHONPATH={broken.parent}:$PYTHONPATH autobatch {PROBE} --json")
    error = json.loads(ended.stdout)["error"]
    assert (ended.status, error["code"]) == (1, "no_torch")
    assert error["facts"][0] == "OSError: libtorch.so: cannot open shared object file"


BUG = """
import click
from autobatch.cli import commands, probe

@commands.cli.command()
@click.option("--json", is_flag=True)
def broken(json):
    probe._limits({})

commands.main()
"""


@pytest.mark.parametrize("whole", [False, True])
def test_a_bug_in_autobatch_is_an_error_with_its_place(whole: bool) -> None:
    environment = {**os.environ, "AUTOBATCH_TRACEBACK": "1"} if whole else dict(os.environ)
    plain, as_json = (
        subprocess.run(
            [sys.executable, "-c", BUG, "broken", *form],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        for form in ((), ("--json",))
    )
    assert (plain.returncode, plain.stdout) == (1, "")
    assert "error: this is a bug in autobatch" in plain.stderr
    assert "KeyError: 'memory_limit'" in plain.stderr
    assert "in `_limits`" in plain.stderr
    assert "AUTOBATCH_TRACEBACK=1" in plain.stderr
    assert ("Traceback" in plain.stderr) is whole
    found = json.loads(as_json.stdout)
    jsonschema.Draft202012Validator(codec.schema()).validate(found)
    assert (as_json.returncode, found["error"]["code"]) == (1, "internal_error")

"""Whole measurements of sample scripts, by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from autobatch.scripts.scratch import changes, listing
from tests.scripts.processes import SAMPLES, VARIABLES

PYTHON = (*VARIABLES, sys.executable)


def autobatch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"AUTOBATCH_CACHE": str(folder.parent / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "autobatch", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    (made / "model.pt").write_bytes(b"earlier weights")
    return made


@pytest.mark.slow
def test_a_flag_is_found_proven_and_applied(folder: Path):
    before = listing(folder)
    script = str(SAMPLES / "parsed.py")
    arguments = ("--json", "--budget", "40s", "--", *PYTHON, script, "--batch-size", "16", "--epochs", "500")
    ended = autobatch("probe", *arguments, folder=folder)
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["workload"]["batch_size"] == 16
    assert answer["workload"]["epochs"] == 500
    assert answer["script"]["knob"] == "`--batch-size`"
    assert answer["script"]["proven"]
    assert answer["check"]["critical_batch_size"] is not None
    words = answer["script"]["command"]
    assert words[words.index("--batch-size") + 1] == str(answer["batch_size"])
    measured = {trial["batch_size"] for trial in answer["trials"] if trial["outcome"] == "ok"}
    assert {16, 32, answer["batch_size"]} <= measured
    assert changes(before, listing(folder)) == ()


@pytest.mark.slow
def test_a_placeholder_is_measured_by_restarts(folder: Path):
    script = str(SAMPLES / "own_batches.py")
    arguments = ("--json", "--budget", "90s", "--no-check", "--max-batch", "48")
    ended = autobatch("probe", *arguments, "--", *PYTHON, script, "batch_size={batch_size=12}", folder=folder)
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    # A step accumulates two batches.
    assert answer["workload"]["batch_size"] == 24
    assert {24, 48} <= {trial["batch_size"] for trial in answer["trials"]}
    assert answer["script"]["command"][-1] == f"batch_size={answer['batch_size'] // 2}"


@pytest.mark.parametrize(
    ("kind", "code"), [("full_batch", "full_batch"), ("hidden", "no_batch_size"), ("short", "too_few_steps")]
)
def test_an_unmeasurable_script_is_refused_by_name(kind: str, code: str, folder: Path):
    ended = autobatch("probe", "--json", "--", *PYTHON, str(SAMPLES / "unmeasurable.py"), kind, folder=folder)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"]["code"] == code


def test_a_command_that_is_missing_is_a_usage_error(folder: Path):
    ended = autobatch("probe", "--", "no-such-program-at-all", folder=folder)
    assert ended.returncode == 2
    assert "can't be started" in ended.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_measured_rows(folder: Path):
    script = str(SAMPLES / "parsed.py")
    running = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "autobatch",
            "probe",
            "--budget",
            "10m",
            "--",
            *PYTHON,
            script,
            "--epochs",
            "9999",
        ],
        cwd=folder,
        env=os.environ | {"AUTOBATCH_CACHE": str(folder.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    rows = []
    for line in running.stderr:
        rows.append(line)
        if "batch size 32:" in line:
            running.send_signal(signal.SIGINT)
            break
    output, error = running.communicate(timeout=60)
    assert running.returncode == 130, error
    assert "no recommendation" in output
    assert "Interrupted: only the sizes shown were measured" in output
    assert {"16", "32"} <= {line.split()[0] for line in output.splitlines() if line.strip()}


def test_ctrl_c_ends_every_process_of_the_command(folder: Path):
    script = f"{sys.executable} {SAMPLES / 'parsed.py'} --epochs 100000 & wait"
    running = subprocess.Popen(
        [sys.executable, "-m", "autobatch", "probe", "--", *VARIABLES, "sh", "-c", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    root = psutil.Process(running.pid)
    deadline = time.monotonic() + 120
    while len(processes := root.children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130, error
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt"]

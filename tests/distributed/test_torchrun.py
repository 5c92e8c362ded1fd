"""The command under torchrun: one rank speaks, all exit alike, and nothing is left after Ctrl-C."""

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

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
dataset = torch.utils.data.TensorDataset(torch.randn(256, 16), torch.randint(0, 4, (256,)))
batch_size = 8
print("imported")
"""


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    (folder / "model.py").write_text(MODEL)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "autobatch"]
    return subprocess.Popen(
        [*launcher, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COUNTED": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(folder: Path) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("COUNTED") == str(folder):
                found.append(one)
        except psutil.Error:
            continue
    return found


def test_one_rank_speaks(tmp_path: Path) -> None:
    """ultralytics/ultralytics 4610, 17334: the automatic size falls back to 16 with several GPUs."""
    options = ("--budget", "4s", "--no-check", "--max-batch", "16", "--json", "--save", "result.json")
    out, err = start(tmp_path, "probe", "model.py", *options).communicate(timeout=SECONDS)
    found = json.loads(out)
    assert found["world_size"] == 2, err
    assert found["global_batch_size"] == 2 * found["batch_size"]
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert err.count("imported") >= 1
    assert alive(tmp_path) == []


def test_an_error_is_said_once_and_all_ranks_exit_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, "probe", "model.py", "--global-batch", "15")
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert out == ""
    assert err.count("can't be shared out to 2 ranks") == 1
    assert "exitcode  : 2" in err


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "probe", "model.py", "--budget", "300s", "--ceiling")
    deadline = time.monotonic() + SECONDS
    # A launcher, two ranks, and a worker and a session of each.
    while len(alive(tmp_path)) < 7:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert alive(tmp_path) == []

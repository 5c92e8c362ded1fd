"""benchmarks/on_gpu.py: its frozen predictions, its README row, and the whole program on the test device."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.accelerator import missing

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PROGRAM = BENCHMARKS / "on_gpu.py"
sys.path.append(str(BENCHMARKS))

from on_gpu_parts import contract, plans, programs, readme, regrets, report  # noqa: E402

PARTS = ("contract", "probes", "ceilings", "plans", "curves", "regrets")


def summary(**facts: Any) -> dict[str, Any]:
    machine = {"name": "NVIDIA H100 80GB HBM3", "torch": "2.11.0+cu130"}
    parts = {"contract": "finished", "probes": "finished", "plans": "skipped: no time left"}
    return {"device": "cuda", "date": "2026-12-01", "machine": machine, "parts": parts, **facts}


def test_forty_predictions_are_frozen_for_eight_families() -> None:
    rows = json.loads(plans.FROZEN.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 40
    assert len({row["family"] for row in rows}) == 8
    for row, case in zip(rows, plans.CASES, strict=True):
        assert (row["family"], row["kind"]) == (case.family, case.kind)
        assert row["full"]["batch_size"] == case.batch_size
        assert row["small"]["batch_size"] == case.small_size
        assert 0 < row["full"]["allocated_bytes"] <= row["full"]["reserved_bytes"]


def test_a_frozen_prediction_can_be_made_again() -> None:
    """A better planner may predict a little else; the frozen figure stays, and a GPU judges it."""
    program = "from autobatch.memory import cuda_rules; cuda_rules.install()\n" + (
        "import json; from on_gpu_parts import plans; print(json.dumps(plans.predict(plans.CASES[0])))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(BENCHMARKS)))}
    predicted = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    row = json.loads(predicted.stdout)
    frozen = json.loads(plans.FROZEN.read_text(encoding="utf-8"))["rows"][0]
    for size in ("full", "small"):
        assert row[size]["allocated_bytes"] == pytest.approx(frozen[size]["allocated_bytes"], rel=0.5)


def test_the_readme_has_the_row_of_the_recorded_results() -> None:
    assert readme.row() in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_a_row_names_the_gpu_and_the_parts_that_finished(tmp_path: Path) -> None:
    assert readme.row(tmp_path) == f"| NVIDIA (CUDA) | {readme.NOT_RUN} |"
    for name, facts in (("first", summary()), ("simulated", summary(device="testdev"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(facts), encoding="utf-8")
    assert readme.row(tmp_path) == (
        "| NVIDIA (CUDA) | NVIDIA H100 80GB HBM3, torch 2.11.0+cu130, 2026-12-01: contract, probes "
        "(plans skipped) |"
    )


def test_a_report_is_whole_after_each_row(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    written = report.Report(path, 60.0)
    assert json.loads(path.read_text(encoding="utf-8"))["rows"] == []
    written.add(family="mlp")
    written.fail("mlp: exit code 3")
    written.note(finished=True)
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert (facts["rows"], facts["finished"]) == ([{"family": "mlp"}], True)
    assert facts["problems"] == written.problems == ["mlp: exit code 3"]
    assert written.seconds_left <= 60.0


def test_without_time_every_part_is_skipped_and_the_archive_is_there(tmp_path: Path) -> None:
    ended = run("--out", "results", "--minutes", "0", "--device", "testdev", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads((tmp_path / "results" / "summary.json").read_text(encoding="utf-8"))
    assert facts["parts"] == dict.fromkeys(PARTS, "skipped: no time left")
    with tarfile.open(tmp_path / "results" / "on_gpu.tar.gz") as packed:
        assert packed.getnames() == ["summary.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_nothing_is_started_and_the_reason_is_said(tmp_path: Path) -> None:
    ended = run("--out", str(tmp_path))
    assert ended.returncode == 2
    assert "torch has no CUDA device here" in ended.stderr


def test_a_program_that_is_cut_off_leaves_its_lines() -> None:
    endless = "import time; print('first', flush=True); time.sleep(600)"
    ended = programs.run_python("-c", endless, seconds=3.0)
    assert (ended.returncode, ended.stdout) == (124, "first\n")


def test_the_contract_suite_needs_no_plugin_of_pytest() -> None:
    without = ("-p", "no:xdist", "-p", "no:timeout", "-p", "no:pytest_cov")
    ended = programs.run_python(
        *("-m", "pytest", *contract.OPTIONS, *without, "--collect-only", "-k", "cuda", contract.SUITE),
        seconds=280.0,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


class SimulatedTask:
    """A task whose trainings take no time."""

    batch_size, learning_rate = 32, 0.001

    def train(self, size: int, learning_rate: float) -> dict[str, float]:
        return {"seconds": 64 / size, "loss": learning_rate}


def test_a_grid_begins_with_its_quickest_trainings_and_says_if_it_is_cut_short() -> None:
    grid, complete = regrets.train_grid(SimulatedTask(), end=math.inf)
    assert complete
    assert len(grid) == 24
    assert [row["batch_size"] for row in grid] == sorted((row["batch_size"] for row in grid), reverse=True)
    assert regrets.train_grid(SimulatedTask(), end=0.0) == ([], False)


@pytest.mark.slow
@pytest.mark.timeout(4000)
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_every_part_runs_on_the_test_device(tmp_path: Path) -> None:
    ended = run("--out", str(tmp_path), "--minutes", "60", "--device", "testdev")
    facts = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert facts["parts"] == dict.fromkeys(PARTS, "finished"), ended.stdout
    texts = {part: (tmp_path / f"{part}.json").read_text(encoding="utf-8") for part in PARTS}
    rows = {part: json.loads(text)["rows"] for part, text in texts.items()}
    assert rows["contract"][0]["passed"] > 20
    assert not rows["contract"][0]["failed"]
    assert [row["exit_code"] for row in rows["probes"] if "skipped" not in row] == [0] * 5
    ceilings = [row for row in rows["ceilings"] if "skipped" not in row]
    assert len(ceilings) == 4
    assert all(row["at_answer"]["survived"] and not row["above"]["survived"] for row in ceilings)
    assert len(rows["plans"]) == 40
    # The test device has no fused recurrent cells, and no autocast for transposed convolutions.
    assert {row["family"] for row in rows["plans"] if "error" in row} <= {"lstm", "unet"}
    assert len({row["model"] for row in rows["curves"]}) == 10
    assert all(row["regret"] > 0 and row["harm"] > 0 for row in rows["regrets"])
    assert all(row["grid_complete"] for row in rows["regrets"])


def run(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )

"""Ranks as processes with gloo: they agree, measure their communication, and survive each other's faults."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

PROGRAM = Path(__file__).parent / "program.py"
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(900)
# On a machine with nothing else to do none takes a minute.
SECONDS = 600


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(folder: Path, ranks: int, scenario: str) -> dict[int, dict[str, Any]]:
    """What each rank has to say; nothing of one that has written nothing. No process of theirs is left."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), str(port), str(folder), scenario],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{rank}.err").open("w"),
        )
        for rank in range(ranks)
    ]
    try:
        for one in processes:
            one.wait(SECONDS)
    finally:
        for one in processes:
            one.kill()
            one.wait()
    assert left(folder) == []
    found = {rank: folder / f"{rank}.json" for rank in range(ranks)}
    return {rank: json.loads(path.read_text()) for rank, path in found.items() if path.exists()}


def left(folder: Path) -> list[list[str]]:
    """Processes that still know of the folder."""
    marked = f"COUNTED={folder}"
    found = []
    for one in psutil.process_iter(["cmdline"]):
        try:
            known = [f"{name}={value}" for name, value in one.environ().items() if name == "COUNTED"]
        except psutil.Error:
            continue
        if any(text.startswith(marked) for text in known):
            found.append(one.info["cmdline"])
    return found


def told(folder: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.err")))


def answers(folder: Path, ranks: int, scenario: str) -> dict[str, Any]:
    """The one answer that all ranks have, after what must hold of each of them."""
    said = run(folder, ranks, scenario)
    assert sorted(said) == list(range(ranks)), told(folder)
    for one in said.values():
        assert "answer" in one, f"{one}\n{told(folder)}"
        assert one["answer"] == said[0]["answer"]
        assert one["group"] == ranks
        assert one["unchanged"]
        assert one["left"] == []
    found: dict[str, Any] = said[0]["answer"]
    assert found["world_size"] == ranks
    assert found["global_batch_size"] == ranks * found["batch_size"] * found["accumulation_steps"]
    return found


def outcomes(found: dict[str, Any]) -> dict[int, str]:
    return {trial["batch_size"]: trial["outcome"] for trial in found["trials"]}


def test_ranks_agree_and_exchange_their_gradients_in_every_step_that_is_measured(tmp_path: Path) -> None:
    """Lightning-AI/pytorch-lightning 20994, 4424: a finder for distributed training."""
    found = answers(tmp_path, 2, "counted")
    steps = sum(trial["optimizer_steps"] for trial in found["trials"])
    buckets = (tmp_path / "counted").read_text().split()
    assert steps > 0
    # One bucket a step of this model, on each rank; the confirmation's steps are on top.
    assert buckets.count("0") == buckets.count("1") >= steps


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    said = run(tmp_path, 2, "absent:1")
    assert said[0]["error"]["code"] == "rank_missing", told(tmp_path)
    assert "1" in said[0]["error"]["facts"][0]
    assert said[0]["left"] == []


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_default_is_distributed_data_parallel(tmp_path: Path, ranks: int) -> None:
    found = answers(tmp_path, ranks, "wrapped")
    assert found["communication"] is not None
    assert found["communication"]["step_seconds"] > 0
    assert set(outcomes(found).values()) == {"ok"}


@pytest.mark.slow
def test_the_rank_with_a_smaller_memory_limit_sets_the_ceiling(tmp_path: Path) -> None:
    found = answers(tmp_path, 2, "memory:1")
    assert found["ceiling"]["limited_by"] == "memory"
    assert found["device"]["limit_bytes"] == 40 << 20
    assert "rank 1" in found["device"]["limit_source"]
    failed = [trial for trial in found["trials"] if trial["outcome"] == "out_of_memory"]
    assert all("on rank 1" in trial["detail"] for trial in failed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "ranks", "outcome"),
    [("kill:1", 2, "crashed"), ("kill:2", 4, "crashed"), ("hang:1", 2, "timeout"), ("hang:3", 4, "timeout")],
)
def test_a_rank_that_dies_or_hangs_ends_that_trial_on_all(
    tmp_path: Path, scenario: str, ranks: int, outcome: str
) -> None:
    found = answers(tmp_path, ranks, scenario)
    failed = [trial for trial in found["trials"] if trial["outcome"] == outcome]
    assert failed
    assert {trial["batch_size"] for trial in failed} <= {8, 16}
    if outcome == "crashed":
        assert all(f"on rank {scenario[-1]}" in trial["detail"] for trial in failed)
    assert found["batch_size"] < 8


@pytest.mark.slow
def test_an_error_of_one_rank_is_that_rank_s_and_ends_on_all(tmp_path: Path) -> None:
    said = run(tmp_path, 2, "raise:1")
    assert sorted(said) == [0, 1], told(tmp_path)
    for one in said.values():
        assert one["error"]["code"] == "step_fails"
        assert any("not with me" in fact for fact in one["error"]["facts"])
        assert "on rank 1" in one["error"]["facts"]
        assert one["left"] == []


@pytest.mark.slow
def test_a_rank_whose_own_process_is_killed_is_an_error_on_the_others(tmp_path: Path) -> None:
    said = run(tmp_path, 2, "kill_parent:1")
    assert sorted(said) == [0], told(tmp_path)
    assert said[0]["error"]["code"] == "rank_lost"
    assert said[0]["left"] == []


@pytest.mark.slow
def test_ranks_that_train_different_models_are_told(tmp_path: Path) -> None:
    said = run(tmp_path, 2, "differ")
    for one in said.values():
        assert one["error"]["code"] == "ranks_differ", told(tmp_path)
        assert one["left"] == []


@pytest.mark.slow
def test_a_sharded_model_is_measured_as_it_is_trained(tmp_path: Path) -> None:
    found = answers(tmp_path, 2, "sharded")
    assert set(outcomes(found).values()) == {"ok"}
    assert found["communication"] is None


@pytest.mark.slow
def test_a_slow_rank_gets_a_size_of_its_own_where_that_is_asked_for(tmp_path: Path) -> None:
    found = answers(tmp_path, 2, "slow:1")
    shared = found["sizes_per_rank"]
    assert shared["common_batch_size"] == found["batch_size"]
    assert sum(shared["batch_sizes"]) == found["global_batch_size"], shared
    # The slow rank sleeps at any size, so it is slow at its smaller one too: only who gets less is certain.
    assert shared["batch_sizes"][0] > shared["batch_sizes"][1]
    assert shared["step_seconds"] > 0


@pytest.mark.slow
def test_the_check_is_about_the_global_batch(tmp_path: Path) -> None:
    found = answers(tmp_path, 2, "checked")
    assert found["check"]["status"] in ("passed", "vetoed", "noise_only"), found["check"]
    assert found["check"]["critical_batch_size"] > 0
    assert found["scaling"]["counts"]

"""benchmarks/mlperf_replay.py: its figures for tables whose law is known."""

from __future__ import annotations

import random
from math import exp
from pathlib import Path

import pytest

from benchmarks import mlperf_replay

SIZES = tuple(2**i for i in range(4, 12))


def runs(critical: float, departure_sd: float = 0.0, seed: int = 0) -> dict[int, list[float]]:
    """Four runs of each size, equal to the law but for a departure that they have in common."""
    draws = random.Random(seed)
    return {size: [10 * (1 + size / critical) * exp(draws.gauss(0, departure_sd))] * 4 for size in SIZES}


def test_the_law_itself_is_predicted_and_its_best_size_is_chosen() -> None:
    figures = mlperf_replay.replay({str(critical): runs(critical) for critical in (50, 200, 1000)})
    assert figures["predictions"] == 3 * len(SIZES)
    assert figures["median_error"] < 0.01
    assert figures["coverage"] == 1.0
    assert figures["regret"]["worst"] < 1.03


def test_departures_from_the_law_are_errors_and_their_size_is_fitted() -> None:
    tables = {str(seed): runs(200, 0.05, seed) for seed in range(12)}
    figures = mlperf_replay.replay(tables)
    assert 0.02 < figures["median_error"] < 0.08
    assert 0.85 < figures["coverage"] <= 1
    assert figures["coverage_by_critical_batch_size_alone"] < figures["coverage"]
    for half in figures["halves"]:
        assert 0.01 < half["law_sd"] < 0.08
        assert half["coverage_of_the_others"] > 0.8


def test_a_table_without_the_law_is_not_covered_and_its_choice_is_not_the_best() -> None:
    """Epochs jump at one size, as if a run at it had another target."""
    broken = runs(200)
    broken[256] = [5 * epochs for epochs in broken[256]]
    predicted = mlperf_replay.predictions("broken", broken)
    (jump,) = (each for each in predicted if each.batch_size == 256)
    assert not jump.is_covered
    assert jump.error == pytest.approx(1.6, abs=0.2)
    shifted = {
        size: [epochs * (1 if size == 16 else 3) for epochs in each] for size, each in runs(200).items()
    }
    assert max(mlperf_replay.choice_regrets(shifted).values()) > 1.1


def test_the_runs_are_read_by_benchmark_and_size(tmp_path: Path) -> None:
    table = tmp_path / "epochs_to_target.csv"
    table.write_text(
        "benchmark,round,batch_size,epochs_to_target\nb,1.0,8,3\na,1.0,8,1.5\na,1.0,8,2\na,1.0,16,4\n"
    )
    read = mlperf_replay.read_runs(table)
    assert list(read.items()) == [("a", {8: [1.5, 2.0], 16: [4.0]}), ("b", {8: [3.0]})]

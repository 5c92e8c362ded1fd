"""A search that dies with its process: its trials are read and decided by `autobatch show --last`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autobatch.cli.show import INTERRUPTION_WARNING, decide_unfinished
from autobatch.records.errors import SavedResultError
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import LimitedBy, Outcome
from autobatch.storage.journal import UnfinishedSearch
from tests.cli.console import autobatch, called, run, validator
from tests.faults.probing import WAIT_AT_8, Run, wait_until, write_model
from tests.golden.test_text_report import CPU, CPU_TRIALS, DIGITS, ENVIRONMENT, failed

UNFINISHED = UnfinishedSearch(
    trials=CPU_TRIALS[:8],
    workload=DIGITS,
    device=CPU,
    limits=Limits(),
    world_size=1,
    environment=ENVIRONMENT,
)


def test_it_is_decided_on_the_trials_that_there_are() -> None:
    answer = decide_unfinished(UNFINISHED)
    assert answer.batch_size in {trial.batch_size for trial in UNFINISHED.trials}
    assert answer.trials == UNFINISHED.trials
    assert (answer.ceiling.batch_size, answer.ceiling.limited_by) == (128, LimitedBy.BUDGET)
    assert INTERRUPTION_WARNING in answer.warnings
    assert answer.environment == ENVIRONMENT
    assert answer.check is None


def test_the_options_of_the_search_count() -> None:
    limits = Limits(objective=Objective.MEMORY, max_batch=500)
    answer = decide_unfinished(replace(UNFINISHED, limits=limits, world_size=4))
    assert (answer.batch_size, answer.world_size, answer.limits) == (128, 4, limits)


def test_a_size_that_failed_is_never_the_answer() -> None:
    trials = (*CPU_TRIALS[:8], failed(64))
    answer = decide_unfinished(replace(UNFINISHED, trials=trials))
    assert answer.ceiling.batch_size == 32


def test_without_a_size_that_passed_the_error_has_the_trials() -> None:
    trials = (failed(1), failed(2, Outcome.CRASHED))
    with pytest.raises(SavedResultError) as raised:
        decide_unfinished(replace(UNFINISHED, trials=trials))
    assert raised.value.code == "nothing_passed"
    assert raised.value.facts == ("batch size 1: out of memory", "batch size 2: crashed")
    assert raised.value.trials == trials


FIND = """
import autobatch
from model_file import build_model, dataset

if __name__ == "__main__":
    autobatch.find(build_model, dataset, device="cpu")
"""


def shown(folder: Path, *options: str) -> dict[str, Any]:
    (ended,) = run(folder, (autobatch(), "show", "--last", "--json", *options))
    assert ended.status == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    validator().validate(document)
    return document


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_probe_that_is_killed_leaves_its_rows(tmp_path: Path) -> None:
    write_model(tmp_path, WAIT_AT_8)
    started = Run(tmp_path, "probe", "model_file.py")
    started.wait_for(tmp_path / "reached")
    os.kill(started.process.pid, signal.SIGKILL)
    assert started.finish() == -signal.SIGKILL
    wait_until(lambda: not started.left_running(), "the worker ends with its parent")

    document = shown(tmp_path)
    assert [trial["batch_size"] for trial in document["trials"]] == [1, 2, 4]
    assert all(trial["outcome"] == "ok" for trial in document["trials"])
    assert document["batch_size"] in (1, 2, 4)
    assert INTERRUPTION_WARNING in document["warnings"]
    assert document["workload"]["target"].endswith("model_file.py")
    assert document["environment"]["torch"]

    plain, quiet = run(
        tmp_path,
        (autobatch(), "show", "--last", "--html", "page.html"),
        (autobatch(), "show", "--last", "-q"),
    )
    assert "was interrupted" in " ".join(plain.stdout.split())
    assert quiet.stdout == f"{document['batch_size']}\n"
    assert "<!doctype html>" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_find_that_is_killed_leaves_its_rows(tmp_path: Path) -> None:
    write_model(tmp_path, WAIT_AT_8)
    (tmp_path / "script.py").write_text(FIND)
    started = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    wait_until(lambda: (tmp_path / "reached").exists() or started.poll() is not None, "batch size 8 is tried")
    started.kill()
    assert started.wait() == -signal.SIGKILL
    assert [trial["batch_size"] for trial in shown(tmp_path)["trials"]] == [1, 2, 4]


def test_calls_of_show_that_can_not_be_meant(tmp_path: Path) -> None:
    both, neither, none, over = (
        called(tmp_path, "show", *arguments)
        for arguments in (
            ("result.json", "--last"),
            (),
            ("--last", "--json"),
            ("--last", "--html", "none/page.html"),
        )
    )
    assert [ended.status for ended in (both, neither, none, over)] == [2, 2, 1, 1]
    assert "`--last` and FILE exclude each other" in both.stderr
    assert "Missing argument 'FILE'" in neither.stderr
    assert json.loads(none.stdout)["error"]["code"] == "no_journal"

"""A second search of the same thing is answered from the cache, through the real command and `find`."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autobatch
from autobatch import load
from tests.cli.console import MODEL, Ended, run, validator
from tests.cli.console import autobatch as command

QUICK = ("--device", "cpu", "--max-batch", "1", "--no-check")
PROBE = (command(), "probe", "model.py", *QUICK)
LIST = (command(), "cache", "list", "--json")


def answer(ended: Ended) -> dict[str, Any]:
    assert ended.status == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    validator().validate(document)
    return document


def measured(document: dict[str, Any]) -> Any:
    """All that a search found; not whether it was found now."""
    return {name: value for name, value in document.items() if name != "cached"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder in which a model was probed, and the answer."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "model.py").write_text(MODEL)
    (first,) = run(folder, (*PROBE, "--json"), environment=cached_in(folder))
    found = answer(first)
    assert found["cached"] is False
    return folder, found


def entries(cache: Path) -> list[Path]:
    """The answers in a cache folder, without their first keys."""
    return sorted(cache.glob("[0-9a-f]*.json"))


def cached_in(folder: Path) -> dict[str, str]:
    return {"AUTOBATCH_CACHE": str(folder / "cache")}


def test_the_second_probe_measures_nothing(work: tuple[Path, dict[str, Any]]) -> None:
    folder, first = work
    commands = (PROBE, (*PROBE, "-q"), (*PROBE, "--json", "--save", "saved.json"))
    plain, quiet, as_json = run(folder, *commands, environment=cached_in(folder))
    second = answer(as_json)
    assert second["cached"] is True
    assert measured(second) == measured(first)
    assert json.loads((folder / "saved.json").read_text()) == second
    assert (quiet.status, quiet.stdout, quiet.stderr) == (0, f"{first['batch_size']}\n", "")
    (line,) = re.findall("^Measured .*$", plain.stdout, re.MULTILINE)
    assert re.match(r"Measured \d{4}-\d\d-\d\d \d\d:\d\d UTC in [\d.]+ \w+; --fresh measures again", line)
    assert plain.stderr == ""


def test_a_hit_starts_no_worker_until_something_changes(tmp_path: Path) -> None:
    """The model file prints when a worker imports it. The unit tests change every part of the key."""
    model = tmp_path / "model.py"
    model.write_text("import sys\nimport part\nprint('imported', file=sys.stderr)\n" + MODEL)
    (tmp_path / "part.py").write_text("width = 1\n")

    def imported(**environment: str) -> bool:
        (ended,) = run(tmp_path, (*PROBE, "--json"), environment=cached_in(tmp_path) | environment)
        answer(ended)
        return "imported" in ended.stderr

    assert imported()
    assert not imported()
    assert imported(OMP_NUM_THREADS="1")
    (tmp_path / "part.py").write_text("width = 2\n")
    assert imported()
    assert not imported()


def test_fresh_measures_anew_and_replaces_the_entry(work: tuple[Path, dict[str, Any]]) -> None:
    folder, first = work
    (fresh,) = run(folder, (*PROBE, "--json", "--fresh"), environment=cached_in(folder))
    anew = answer(fresh)
    assert anew["cached"] is False
    assert measured(anew) != measured(first)
    kept = [json.loads(entry.read_text()) for entry in entries(folder / "cache")]
    assert anew in kept
    assert first not in kept


def test_a_damaged_entry_is_told(work: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = work
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    for entry in entries(damaged / "cache"):
        entry.write_text('{"schema": "autobatch/2", "ok": true, "batch_size": 1000000}')
    (told,) = run(damaged, (*PROBE, "-v"), environment=cached_in(damaged))
    assert told.status == 0
    assert "! An entry of the cache was ignored" in told.stdout
    (mended,) = [entry for entry in entries(damaged / "cache") if len(entry.read_text()) > 1000]
    assert not [warning for warning in load(mended).warnings if "cache" in warning]


def test_a_folder_that_can_not_be_written_to_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "cache").write_text("a file")
    probed, listed = run(tmp_path, (*PROBE, "-v"), LIST, environment=cached_in(tmp_path))
    assert probed.status == 0
    assert "! The answer was not kept in the cache: " in probed.stdout
    assert listed.status == 1
    assert json.loads(listed.stdout)["error"]["code"] == "no_cache_folder"


def test_listing_and_clearing(work: tuple[Path, dict[str, Any]]) -> None:
    folder, first = work
    own = {"AUTOBATCH_CACHE": str(folder / "other")}
    empty, cleared = run(folder, (command(), "cache", "list"), LIST, environment=own)
    assert empty.stdout == f"0 answers, 0 B, in {folder / 'other'}\n"
    assert json.loads(cleared.stdout)["entries"] == []
    for entry in entries(folder / "cache"):
        (folder / "other").mkdir(exist_ok=True)
        os.link(entry, folder / "other" / entry.name)
    table, as_json = run(folder, (command(), "cache", "list"), LIST, environment=own)
    assert "model.py" in table.stdout
    found = json.loads(as_json.stdout)["entries"]
    assert {one["batch_size"] for one in found} == {first["batch_size"]}
    (cleared,) = run(folder, (command(), "cache", "clear"), environment=own)
    assert cleared.stdout == f"{len(found)} answer{'s' * (len(found) > 1)} removed\n"
    assert not list((folder / "other").iterdir())


NOTEBOOK = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 3)

    def forward(self, inputs):
        return self.body(inputs) * 1.0
"""


@pytest.mark.slow
def test_find_is_answered_from_the_cache_by_what_the_code_does() -> None:
    """Classes of a script or of a notebook come to the worker without a file."""

    def ask(code: str, fresh: bool = False) -> bool:
        space: dict[str, Any] = {"__name__": "__main__", "nn": nn}
        exec(code, space)
        model = space["Net"]()
        return autobatch.find(
            model,
            (torch.randn(64, 12), torch.randint(3, (64,))),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            device="cpu",
            limits=autobatch.Limits(max_batch=1, check=False),
            fresh=fresh,
        ).cached

    assert ask(NOTEBOOK) is False
    assert ask(f"# A comment.\n{NOTEBOOK}") is True
    assert ask(NOTEBOOK.replace("* 1.0", "* 2.0")) is False
    assert ask(NOTEBOOK, fresh=True) is False

"""The first key of the cache: every argument is part of it, and only an answer that holds comes of it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from autobatch.devices import host
from autobatch.measurement.pipeline import RECIPE_FIELDS_OF_CACHE
from autobatch.records.cached import FilesRead
from autobatch.records.device import Device
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.storage import cache, cache_folder, first_key
from autobatch.storage.first_key import FirstKey
from tests.storage.test_cache import OTHER_LIMITS, OTHER_RECIPES, RECIPE
from tests.storage.test_codec import SMALL

GIB = 2**30
ENTRY = "0" * 32 + ".json"
NAME = "key-" + "1" * 32 + ".json"


def here() -> Device:
    """This machine's CPU, with memory to spare, whatever else runs on it."""
    memory = host.read_memory()
    return Device(
        kind="cpu", index=0, name=host.cpu_name(), total_bytes=memory.total_bytes, threads=2, limit_bytes=1
    )


def small_answer(**changes: Any) -> Recommendation:
    """An answer whose sizes took almost no memory, within a limit of its own."""
    passed = replace(SMALL.trials[0], peak_bytes=1, confirmed=True)
    answer = replace(SMALL, trials=(passed,), device=here(), limits=Limits(memory_bytes=GIB))
    return replace(answer, **changes)


def kept(answer: Recommendation, files: FilesRead, entry: str = ENTRY) -> FirstKey:
    """A first key of the answer, after a search that kept both."""
    cache.Slot(ENTRY, answer.limits, answer.device, answer.workload).keep(answer)
    key = FirstKey(NAME, answer.limits)
    key.keep(entry, device=answer.device, workload=answer.workload, files=files)
    return key


def name(**changes: Any) -> str:
    parts = {"limits": Limits(), "recipe": RECIPE, "device": None, "environment": {"HOME": "/root"}}
    return first_key.name_of(**{**parts, **changes})


def test_every_argument_is_part_of_the_name() -> None:
    assert OTHER_LIMITS.keys() == {field.name for field in fields(Limits)}
    assert OTHER_RECIPES.keys() == set(RECIPE_FIELDS_OF_CACHE)
    names = [
        name(),
        *(name(limits=replace(Limits(), **{field: value})) for field, value in OTHER_LIMITS.items()),
        *(name(recipe={**RECIPE, field: value}) for field, value in OTHER_RECIPES.items()),
        name(device="cpu"),
        name(environment={"HOME": "/root", "OMP_NUM_THREADS": "1"}),
        name(environment={"HOME": "/root", "CUDA_VISIBLE_DEVICES": "1"}),
        name(environment={"HOME": "/root", "WIDTH_OF_THE_MODEL": "8"}),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]


def test_the_folder_is_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = name()
    monkeypatch.chdir(tmp_path)
    assert name() != before


@pytest.mark.parametrize("variable", ["SHLVL", "PWD", "COLUMNS", "SSH_CONNECTION", "TERM", "TERM_PROGRAM"])
def test_the_session_of_a_terminal_is_no_part_of_it(variable: str) -> None:
    assert name(environment={"HOME": "/root", variable: "1"}) == name()


def test_an_answer_comes_back_as_cached(tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text("")
    answer = small_answer()
    key = kept(answer, FilesRead(files={str(tmp_path / "data"): ""}))
    assert key.answer() == replace(answer, cached=True)
    (tmp_path / "data").write_text("now it is there")
    assert key.answer() is None


def test_nothing_is_kept_where_reads_may_have_escaped() -> None:
    assert kept(small_answer(), FilesRead(unseen="a connection was opened")).answer() is None
    assert not (cache_folder.find_folder() / NAME).exists()


def test_another_device_has_another_answer() -> None:
    for device in (
        replace(here(), name="another processor"),
        replace(here(), total_bytes=1),
        Device(kind="mps", index=0, name="a GPU that only torch can see"),
    ):
        assert kept(small_answer(device=device), FilesRead()).answer() is None


def test_an_answer_that_no_longer_fits_is_none() -> None:
    passed = replace(SMALL.trials[0], peak_bytes=1 << 60, confirmed=True)
    assert kept(small_answer(trials=(passed,)), FilesRead()).answer() is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": "autobatch-first-key/0"}', '{"schema": "autobatch-first-key/1"}'],
)
def test_a_damaged_key_is_none(text: str) -> None:
    key = kept(small_answer(), FilesRead())
    (cache_folder.find_folder() / NAME).write_text(text)
    assert key.answer() is None


def test_only_an_entry_of_the_cache_is_read(tmp_path: Path) -> None:
    assert kept(small_answer(), FilesRead(), entry=str(tmp_path / "answer.json")).answer() is None
    assert kept(small_answer(), FilesRead(), entry=f"../{ENTRY}").answer() is None


def test_clearing_the_cache_removes_first_keys() -> None:
    key = kept(small_answer(), FilesRead())
    assert len(cache.list_entries().entries) == 1
    assert cache.clear() == 1
    assert not list(cache_folder.find_folder().iterdir())
    assert key.answer() is None


def test_old_keys_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache_folder.make_folder()
    for number in range(cache.MOST_ENTRIES):
        (folder / f"key-{number:032x}.json").write_text("")
    kept(small_answer(), FilesRead())
    assert len(list(folder.glob("key-*"))) == cache.MOST_ENTRIES
    assert (folder / NAME).exists()

"""The journal on a real file system: whole at every moment, bounded, and never in the way of an answer."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autobatch.records.errors import AutobatchError, SavedResultError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Environment
from autobatch.records.trial import Outcome, Trial
from autobatch.storage import cache, cache_folder, journal
from autobatch.storage.journal import Journal
from tests.storage.test_codec import SMALL
from tests.strategies import trials

ENVIRONMENT = Environment(
    autobatch="0.1.0",
    python="3.12",
    torch="2.13",
    platform="Linux",
    cpu="a CPU",
    started_at="2026-11-24T19:16:03+00:00",
    elapsed_seconds=0.0,
)
LIMITS = Limits(seed=7)
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache_folder.FOLDER_VARIABLE, str(tmp_path / "parent" / "cache"))
    return tmp_path / "parent" / "cache"


def opened() -> Journal:
    made = Journal()
    made.opened(SMALL.workload, SMALL.device, LIMITS, ENVIRONMENT, world_size=2)
    return made


def trial(size: int) -> Trial:
    return Trial(batch_size=size, outcome=Outcome.OK, step_seconds=(0.1,), samples_per_second=10.0 * size)


def journals(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("journal-*"))


def test_every_trial_is_in_the_file_as_soon_as_it_was_tried(folder: Path) -> None:
    written = opened()
    assert not folder.exists()
    for count in (1, 2, 3):
        written.tried(trial(2**count))
        found = journal.load_newest()
        assert [one.batch_size for one in found.trials] == [2, 4, 8][:count]
        assert len(os.listdir(folder)) == 1
    assert (found.workload, found.device, found.limits) == (SMALL.workload, SMALL.device, LIMITS)
    assert found.world_size == 2
    assert replace(found.environment, elapsed_seconds=0.0) == ENVIRONMENT
    assert 0.0 <= found.environment.elapsed_seconds < 600.0


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(trials(), min_size=1, max_size=4))
def test_any_trials_come_back(folder: Path, measured: list[Trial]) -> None:
    written = opened()
    for one in measured:
        written.tried(one)
    assert journal.load_newest().trials == tuple(measured)
    written.finished()


def test_an_answer_removes_its_journal_and_no_other(folder: Path) -> None:
    first, second = opened(), opened()
    first.tried(trial(1))
    (kept,) = journals(folder)
    second.tried(trial(2))
    second.finished()
    second.tried(trial(4))
    assert journals(folder) == [kept]


def test_the_newest_is_the_one_that_was_written_last(folder: Path) -> None:
    first, second = opened(), opened()
    first.tried(trial(1))
    (old,) = journals(folder)
    second.tried(trial(2))
    os.utime(folder / old, (1, 1))
    assert journal.load_newest().trials == (trial(2),)
    first.tried(trial(3))
    os.utime(folder / old, (time.time() + 10,) * 2)
    assert journal.load_newest().trials == (trial(1), trial(3))


@POSIX
def test_it_is_private(folder: Path) -> None:
    before = os.umask(0)
    try:
        opened().tried(trial(1))
    finally:
        os.umask(before)
    (name,) = journals(folder)
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_old_ones_and_those_beyond_the_number_go_with_the_next_search(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "journal-notes.txt").write_text("mine")
    now = time.time()
    for number in range(30):
        path = folder / f"journal-20261128T000000-{number:016x}.json"
        path.write_text("{}")
        os.utime(path, (now - number, now - number))
    for number in (3, 4):
        long_ago = now - journal.MAX_AGE_SECONDS - 60
        os.utime(folder / f"journal-20261128T000000-{number:016x}.json", (long_ago, long_ago))
    opened().tried(trial(1))
    left = [name for name in journals(folder) if name.endswith(".json")]
    assert len(left) == journal.MAX_JOURNALS
    assert not {f"journal-20261128T000000-{number:016x}.json" for number in (3, 4, 21)} & set(left)
    assert (folder / "journal-notes.txt").exists()


def test_clearing_the_cache_clears_journals_too(folder: Path) -> None:
    opened().tried(trial(1))
    assert cache.list_entries().entries == ()
    assert cache.clear() == 0
    assert os.listdir(folder) == []


@pytest.mark.parametrize("obstacle", ["a file", "a link to nothing"])
@POSIX
def test_a_folder_that_can_not_be_used_costs_nothing(folder: Path, obstacle: str) -> None:
    folder.parent.mkdir()
    if obstacle == "a file":
        folder.write_text("")
    else:
        folder.symlink_to(folder.parent / "nothing")
    written = opened()
    written.tried(trial(1))
    written.tried(trial(2))
    written.finished()


def test_without_a_journal_the_error_says_so(folder: Path) -> None:
    with pytest.raises(SavedResultError) as raised:
        journal.load_newest()
    assert raised.value.code == "no_journal"
    assert raised.value.hint


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda text: text[:200], "not_json"),
        (lambda text: "[]", "wrong_version"),
        (lambda text: text.replace("autobatch-journal/1", "autobatch-journal/9"), "wrong_version"),
        (lambda text: text.replace('"batch_size": 1', '"batch_size": -1'), "damaged_result"),
        (lambda text: json.dumps({**json.loads(text), "trials": 3}), "damaged_result"),
    ],
)
def test_a_damaged_journal_is_an_error(folder: Path, change: object, code: str) -> None:
    assert callable(change)
    opened().tried(trial(1))
    (name,) = journals(folder)
    (folder / name).write_text(change((folder / name).read_text()))
    with pytest.raises(AutobatchError) as raised:
        journal.load_newest()
    assert raised.value.code == code
    assert raised.value.facts

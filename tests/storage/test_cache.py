"""The cache of answers on a real file system: every part of the key, every kind of damage, and its bounds."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from autobatch.engines import messages
from autobatch.measurement.pipeline import RECIPE_FIELDS_OF_CACHE
from autobatch.records.cached import CacheListing
from autobatch.records.device import Device, MemoryUser
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.records.trial import Ceiling, LimitedBy, Outcome, Trial
from autobatch.reports.text import cache_list, terminal
from autobatch.storage import cache, cache_folder, codec, result_files
from tests.storage.test_codec import SMALL

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
MIB, GIB = 2**20, 2**30

FINGERPRINT = dict.fromkeys(("model", "optimizer", "samples", "source", "training", "versions"), "0")
LIMITS = Limits()
DEVICE = Device(
    kind="cuda", index=0, name="H100", uuid="GPU-1", driver="550", total_bytes=80 * GIB, threads=None
)
RECIPE = {name: getattr(messages.Recipe(target="m.py"), name) for name in RECIPE_FIELDS_OF_CACHE}
NAME = "0" * 32 + ".json"


def name(**changes: Any) -> str:
    parts = {"fingerprint": FINGERPRINT, "limits": LIMITS, "device": DEVICE, "recipe": RECIPE}
    return cache.name_of(**{**parts, "environment": {"HOME": "/root"}, **changes})


# The key

OTHER_LIMITS = {
    "memory_bytes": GIB,
    "memory_fraction": 0.5,
    "min_batch": 2,
    "max_batch": 64,
    "multiple_of": 8,
    "group": 4,
    "global_batch": 256,
    "budget_seconds": 30.0,
    "trial_timeout_seconds": 60.0,
    "objective": Objective.MEMORY,
    "ceiling": True,
    "check": False,
    "sizes_per_rank": True,
    "keep_learning_rate": True,
    "number_alone": True,
    "seed": 1,
}
OTHER_DEVICES = {
    "kind": "xpu",
    "index": 1,
    "name": "A100",
    "uuid": "GPU-2",
    "driver": "560",
    "total_bytes": 40 * GIB,
    "threads": 2,
}
OTHER_RECIPES = {
    "target": "n.py",
    "input_shape": (3, 8, 8),
    "classes": 10,
    "epochs": 2.0,
    "precision": "bf16",
    "optimizer": "sgd",
    "checkpoint": "/weights.pt",
    "checkpoint_state": "1 2 3 4",
    "arguments": ("--width", "5"),
}


def test_the_same_search_has_the_same_name() -> None:
    assert name() == name()
    assert len(name()) == len(NAME)


@pytest.mark.parametrize("part", FINGERPRINT)
def test_each_part_of_the_fingerprint_misses_on_its_own(part: str) -> None:
    assert name(fingerprint={**FINGERPRINT, part: "1"}) != name()


@pytest.mark.parametrize("field", [field.name for field in fields(Limits)])
def test_each_option_misses_on_its_own(field: str) -> None:
    """A field that is added to Limits has to be added above: so it can't be forgotten in the key."""
    assert name(limits=replace(LIMITS, **{field: OTHER_LIMITS[field]})) != name()


@pytest.mark.parametrize("field", OTHER_DEVICES)
def test_each_feature_of_the_device_misses_on_its_own(field: str) -> None:
    changed = replace(DEVICE, **{field: OTHER_DEVICES[field]})  # type: ignore[arg-type]
    assert name(device=changed) != name()


@pytest.mark.parametrize("field", RECIPE_FIELDS_OF_CACHE)
def test_each_option_of_the_target_misses_on_its_own(field: str) -> None:
    assert name(recipe={**RECIPE, field: OTHER_RECIPES[field]}) != name()


@pytest.mark.parametrize(
    "variable", ["PYTORCH_ALLOC_CONF", "OMP_NUM_THREADS", "TORCH_LOGS", "MKL_NUM_THREADS"]
)
def test_what_torch_reads_from_the_environment_misses(variable: str) -> None:
    assert name(environment={"HOME": "/root", variable: "1"}) != name()


def test_what_changes_from_moment_to_moment_is_no_part_of_it() -> None:
    holder = MemoryUser(pid=1, name="x", memory_bytes=1)
    later = replace(
        DEVICE,
        free_bytes=1,
        limit_bytes=2,
        limit_source="x",
        utilisation=0.5,
        memory_users=(holder,),
        notes=("x",),
    )
    assert name(device=later) == name()
    assert name(environment={"HOME": "/other", "PWD": "/tmp"}) == name()
    assert {"frameworks", "payload", "sys_path"} == set(messages.Recipe.__struct_fields__) - set(
        RECIPE_FIELDS_OF_CACHE
    )


# Whether an answer still holds with the memory that there is


def measured(
    limit_bytes: int | None,
    *trials: tuple[int, Outcome, int | None],
    by: LimitedBy = LimitedBy.PLATEAU,
    explicit: bool = False,
) -> Recommendation:
    """An answer of batch size 8, measured under a limit."""
    return replace(
        SMALL,
        trials=tuple(Trial(batch_size=size, outcome=end, peak_bytes=peak) for size, end, peak in trials),
        ceiling=Ceiling(batch_size=8, limited_by=by, verified=True),
        device=replace(SMALL.device, limit_bytes=limit_bytes),
        limits=Limits(memory_bytes=limit_bytes if explicit else None),
    )


OK, OOM = Outcome.OK, Outcome.OUT_OF_MEMORY
ROOMY = measured(1000, (8, OK, 100), (16, OK, 200))
TIGHT = measured(1000, (8, OK, 800), (16, OOM, None))
FULL = measured(1000, (8, OK, 980), by=LimitedBy.MEMORY)
ASKED = measured(1000, (8, OK, 980), by=LimitedBy.MEMORY, explicit=True)
UNKNOWN = measured(1000, (8, OK, None))


@pytest.mark.parametrize(
    ("found", "limit_bytes", "free_bytes", "holds"),
    [
        # Memory had no part in it: whatever passed has to fit, with a twentieth to spare.
        (ROOMY, 1000, 2000, True),
        (ROOMY, 5000, 6000, True),
        (ROOMY, 211, 300, True),
        (ROOMY, 209, 300, False),
        # Memory stopped it: more might find more, less might find less.
        (TIGHT, 1100, 2000, True),
        (TIGHT, 1101, 2000, False),
        (TIGHT, 900, 2000, True),
        (TIGHT, 899, 2000, False),
        (FULL, 1000, 2000, True),
        (FULL, 1100, 2000, True),
        (FULL, 1101, 2000, False),
        (FULL, 999, 2000, False),
        # The user's own limit is what it is, but there has to be as much.
        (ASKED, 1000, 980, True),
        (ASKED, 1000, 979, False),
        # Where nobody knows what it took, the limit has to be about the same.
        (UNKNOWN, 950, None, True),
        (UNKNOWN, 899, None, False),
        (UNKNOWN, None, None, False),
        (measured(None, (8, OK, 100)), None, None, True),
        (measured(None, (8, OK, 100)), 1000, None, False),
    ],
)
def test_whether_an_answer_still_holds(
    found: Recommendation, limit_bytes: int | None, free_bytes: int | None, holds: bool
) -> None:
    now = replace(SMALL.device, limit_bytes=limit_bytes, free_bytes=free_bytes)
    assert cache.still_fits(found, now) is holds


def test_what_the_allocator_took_counts_before_the_peak() -> None:
    trial = Trial(batch_size=8, outcome=OK, peak_bytes=100, reserved_bytes=500)
    found = replace(ROOMY, trials=(trial,))
    assert not cache.still_fits(found, replace(SMALL.device, limit_bytes=400))


# Entries


def slot(name: str = NAME, **changes: Any) -> cache.Slot:
    parts = {"limits": SMALL.limits, "device": SMALL.device, "workload": SMALL.workload, **changes}
    return cache.Slot(name, parts["limits"], parts["device"], parts["workload"])


ENVIRONMENT = Environment(
    autobatch="0.1.0",
    python="3.12",
    torch="2.13",
    platform="Linux",
    cpu="a CPU",
    started_at="2026-11-24T19:16:03+00:00",
    elapsed_seconds=34.2,
)
ANSWER = replace(
    SMALL,
    trials=(replace(SMALL.trials[0], confirmed=True), *SMALL.trials[1:]),
    environment=ENVIRONMENT,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache_folder.FOLDER_VARIABLE, str(tmp_path / "parent" / "cache"))
    return tmp_path / "parent" / "cache"


def test_what_is_kept_comes_back(folder: Path) -> None:
    assert slot().answer() is None
    assert slot().keep(ANSWER) == ANSWER
    assert slot().answer() == replace(ANSWER, cached=True)
    assert result_files.load(folder / NAME) == ANSWER
    newer = replace(ANSWER, why="another reason")
    slot().keep(newer)
    assert slot().answer() == replace(newer, cached=True)
    assert os.listdir(folder) == [NAME]


@POSIX
def test_entries_are_private(folder: Path) -> None:
    before = os.umask(0)
    try:
        slot().keep(ANSWER)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600


def test_an_answer_that_was_not_confirmed_is_not_kept(folder: Path) -> None:
    assert slot().keep(SMALL) == SMALL
    assert slot().answer() is None


def test_without_a_name_nothing_is_kept_and_the_reason_told(folder: Path) -> None:
    nameless = cache.Slot("", LIMITS, DEVICE, SMALL.workload, why_not="`nets.py` can't be read")
    assert nameless.answer() is None
    (told,) = set(nameless.keep(ANSWER).warnings) - set(ANSWER.warnings)
    assert told == "the answer was not kept in the cache: `nets.py` can't be read"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_text(""), "is not JSON"),
        (lambda path: path.write_bytes(b"\x80\x04\x95junk"), "is not JSON"),
        (lambda path: path.write_text(codec.render(ANSWER)[:300]), "is not JSON"),
        (
            lambda path: path.write_text(codec.render(ANSWER).replace("autobatch/2", "autobatch/9")),
            "another version",
        ),
        (lambda path: path.write_text(codec.render(replace(ANSWER, batch_size=7))), "is damaged"),
        (lambda path: path.write_text(codec.render_error(AutobatchError("x", code="x"))), "holds an error"),
        (lambda path: path.write_bytes(b" " * (result_files.MAX_BYTES + 1)), "can't be read"),
        (lambda path: (path.unlink(), path.mkdir()), "it is a directory"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "not a regular file"),
        (
            lambda path: path.write_text(codec.render(replace(ANSWER, limits=Limits(seed=9)))),
            "another search",
        ),
    ],
)
@POSIX
def test_a_damaged_entry_is_ignored_with_a_warning_and_replaced(
    folder: Path, damage: Callable[[Path], object], told: str
) -> None:
    slot().keep(ANSWER)
    damage(folder / NAME)
    search = slot()
    assert search.answer() is None
    *_, warning = search.keep(ANSWER).warnings
    if (folder / NAME).is_dir():
        # That can't be replaced, which is told as well.
        warning = search.keep(ANSWER).warnings[-3]
        (folder / NAME).rmdir()
        slot().keep(ANSWER)
    assert warning.startswith("an entry of the cache was ignored: ")
    assert told in warning
    assert "\x1b" not in warning
    assert slot().answer() == replace(ANSWER, cached=True)


def test_another_model_in_the_place_of_this_one_is_ignored(folder: Path) -> None:
    slot().keep(ANSWER)
    for other in ({"model": "Other"}, {"parameters": 2}, {"target": "other.py"}):
        assert slot(workload=replace(SMALL.workload, **other)).answer() is None  # type: ignore[arg-type]
    assert slot(device=replace(SMALL.device, total_bytes=1)).answer() is None


@pytest.mark.parametrize("obstacle", ["a file", "a folder that is gone", "no rights"])
@POSIX
def test_a_folder_that_can_not_be_used_costs_a_warning(folder: Path, obstacle: str) -> None:
    folder.parent.mkdir()
    if obstacle == "a file":
        folder.write_text("")
    elif obstacle == "a folder that is gone":
        folder.symlink_to(folder.parent / "nothing")
    elif os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    else:
        folder.mkdir(0o500)
    search = slot()
    assert search.answer() is None
    kept = search.keep(ANSWER)
    assert replace(kept, warnings=ANSWER.warnings) == ANSWER
    assert "the answer was not kept in the cache" in kept.warnings[-1]


def test_the_oldest_make_room(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    for number in range(cache.MOST_ENTRIES + 5):
        path = folder / f"{number:032x}.json"
        path.write_text("x")
        os.utime(path, (number, number))
    slot("f" * 32 + ".json").keep(ANSWER)
    left = sorted(path.name for path in folder.glob("*.json"))
    assert len(left) == cache.MOST_ENTRIES
    assert left[0] == f"{6:032x}.json"
    assert left[-1] == "f" * 32 + ".json"
    assert (folder / "notes.txt").exists()


WRITER = """
import sys
from dataclasses import replace
from tests.storage.test_cache import ANSWER, slot
for number in range(60):
    slot().keep(replace(ANSWER, why=sys.argv[1] * (1 + 997 * number % 5000)))
"""


def test_processes_that_write_the_same_entry_never_tear_it(folder: Path) -> None:
    root = Path(__file__).parents[2]
    slot().keep(ANSWER)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, letter], cwd=root) for letter in "ab"]
    seen = set()
    while any(one.poll() is None for one in writers):
        found = slot().answer()
        assert found is not None
        seen.add(found.why[0])
        assert len(set(found.why)) == 1 or found.why == ANSWER.why
    assert [one.returncode for one in writers] == [0, 0]
    assert {"a", "b"} & seen
    assert os.listdir(folder) == [NAME]


# Listing and clearing


def listed(folder: Path) -> CacheListing:
    slot().keep(ANSWER)
    os.utime(folder / NAME, (2, 2))
    workload = replace(SMALL.workload, target="a/long/path/to/a/file/of/models.py:TheNet", model="N" * 40)
    slot("1" * 32 + ".json").keep(replace(ANSWER, workload=workload, batch_size=8, environment=None))
    (folder / ("2" * 32 + ".json")).write_text("{")
    (folder / "other.json").write_text("mine")
    (folder / ".autobatch-0123.part").write_text("cut short")
    return cache.list_entries()


def test_what_is_listed(folder: Path) -> None:
    found = listed(folder)
    assert [entry.answer.workload.model[0] for entry in found.entries] == ["N", "N"]
    assert [entry.answer.environment for entry in found.entries] == [None, ENVIRONMENT]
    assert found.entries[1].size_bytes == (folder / NAME).stat().st_size
    assert len(found.damaged) == 1
    assert "2222" in found.damaged[0]


def test_the_list_as_people_and_programs_see_it(
    folder: Path, golden: Callable[[str | Path, str], None]
) -> None:
    found = replace(listed(folder), folder="/home/me/.cache/autobatch", damaged=("`2.json` is not JSON",))
    found = replace(found, entries=tuple(replace(one, size_bytes=4459, path="x") for one in found.entries))
    golden("text/cache_list.txt", cache_list.render(found))
    assert max(map(len, cache_list.render(found).splitlines())) <= 80
    golden("text/cache_list.json", cache_list.render_json(found))
    golden("text/cache_list_empty.txt", cache_list.render(CacheListing(folder="/c", entries=())))


def test_a_cached_answer_says_so(golden: Callable[[str | Path, str], None]) -> None:
    golden("text/cached.txt", terminal.render(replace(ANSWER, cached=True)))
    assert "cache " not in terminal.render(ANSWER)


def test_clearing_removes_entries_and_nothing_else(folder: Path) -> None:
    listed(folder)
    assert cache.clear() == 3
    assert os.listdir(folder) == ["other.json"]
    assert cache.clear() == 0
    assert cache.list_entries().entries == ()


def test_a_folder_that_can_not_be_read_is_an_error(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("")
    for ask in (cache.list_entries, cache.clear):
        with pytest.raises(AutobatchError) as raised:
            ask()
        assert raised.value.code == "no_cache_folder"
        assert raised.value.hint

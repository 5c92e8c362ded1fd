"""Saved results on a real file system: whole or not at all, and every obstacle named."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from autobatch.records.errors import SavedResultError
from autobatch.records.recommendation import Recommendation
from autobatch.storage import codec, result_files
from tests.storage.test_codec import SMALL
from tests.strategies import recommendations

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recommendations())
def test_what_is_saved_loads(tmp_path: Path, recommendation: Recommendation) -> None:
    result_files.save(recommendation, tmp_path / "r.json")
    assert result_files.load(tmp_path / "r.json") == recommendation
    assert os.listdir(tmp_path) == ["r.json"]


def test_paths_may_be_text_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result_files.save(SMALL, "r.json")
    assert result_files.load("r.json") == SMALL
    assert Path("r.json").read_text(encoding="utf-8") == codec.render(SMALL) + "\n"


def not_saved(path: str | Path) -> SavedResultError:
    with pytest.raises(SavedResultError) as caught:
        result_files.save(SMALL, path)
    return told(caught.value, "cannot_save")


def not_loaded(path: str | Path, code: str = "cannot_load") -> SavedResultError:
    with pytest.raises(SavedResultError) as caught:
        result_files.load(path)
    return told(caught.value, code)


def told(error: SavedResultError, code: str) -> SavedResultError:
    assert error.code == code
    assert len(error.facts) == 1
    assert error.hint
    assert str(error).replace("\n", "").isprintable()
    return error


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    result_files.save(SMALL, path)
    assert result_files.load(path) == SMALL


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    error = not_saved(tmp_path)
    assert error.message == f"the result can't be saved to `{tmp_path}`"
    assert error.facts == ("it is a directory",)
    assert not_loaded(tmp_path).facts == ("it is a directory",)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    assert not_saved(tmp_path / "none" / "r.json").facts == ("no such file or directory",)
    assert not_loaded(tmp_path / "r.json").facts == ("no such file or directory",)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    not_saved(tmp_path / "file" / "r.json")
    not_loaded(tmp_path / "file" / "r.json")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, ""])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}" if name else name
    not_saved(path)
    not_loaded(path)


@POSIX
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b.json")
    not_loaded(path)
    result_files.save(SMALL, path)
    assert result_files.load(path) == SMALL


@POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert not_saved(tmp_path / "r.json").facts == ("permission denied",)
    finally:
        tmp_path.chmod(0o700)


@POSIX
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A real limit on file sizes, in a process of its own, stands for a disk that fills up."""
    path = tmp_path / "r.json"
    path.write_text("old")
    program = (
        "import resource, sys\n"
        "from autobatch.storage import result_files; from tests.storage.test_codec import SMALL\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: result_files.save(SMALL, sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, *error.facts)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "SavedResultError file too large\n"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


@POSIX
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_mode_is_what_the_umask_gives(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        result_files.save(SMALL, tmp_path / "r.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == mode


@POSIX
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "real" / "r.json")
    result_files.save(SMALL, link)
    assert link.is_symlink()
    assert result_files.load(tmp_path / "real" / "r.json") == result_files.load(link) == SMALL


@POSIX
@pytest.mark.timeout(20)
def test_pipes_and_devices_are_neither_waited_for_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        assert not_saved(path).facts == ("it is not a regular file",)
        assert not_loaded(path).facts == ("it is not a regular file",)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_files_that_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for content, code in (
        (b"", "not_json"),
        (b"batch_size: 8", "not_json"),
        (b"\x80\x04\x95", "not_json"),
        (b"{}", "not_a_result"),
        (b'{"schema": "autobatch/9"}', "wrong_version"),
        (codec.render(SMALL)[:-2].encode(), "not_json"),
        (b"[" * 10**6, "damaged_result"),
    ):
        path.write_bytes(content)
        assert not_loaded(path, code).message.startswith(f"`{path}` ")


def test_a_file_that_is_far_too_large(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with open(path, "wb") as file:
        file.truncate(result_files.MAX_BYTES + 1)
    assert not_loaded(path).facts == ("it is larger than 8.0 MiB, and a result takes a few KiB",)


def test_reports_and_files_leave_torch_alone() -> None:
    modules = (
        "autobatch.records.formatting, autobatch.storage.result_files, "
        "autobatch.reports.text.terminal, autobatch.storage.codec"
    )
    program = f"import sys, {modules}; print({{'torch', 'rich', 'numpy', 'pickle'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"

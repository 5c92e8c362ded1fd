"""The cache folder: where it is for a user, and what is said where there can be none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from autobatch.records.errors import AutobatchError
from autobatch.storage import cache_folder

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="folders of the XDG specification")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"AUTOBATCH_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"AUTOBATCH_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/autobatch"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/autobatch"),
        ({}, "/home/me/.cache/autobatch"),
    ],
)
@LINUX
def test_where_the_folder_is(
    environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTOBATCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder.find_folder()) == folder


def test_a_relative_folder_is_that_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOBATCH_CACHE", "mine")
    monkeypatch.chdir(tmp_path)
    assert cache_folder.find_folder() == tmp_path / "mine"


@LINUX
def test_a_user_without_a_home_gets_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    for name in ("AUTOBATCH_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(AutobatchError) as raised:
        cache_folder.find_folder()
    assert raised.value.code == "no_cache_folder"
    assert "AUTOBATCH_CACHE" in raised.value.hint


def test_the_folder_is_made_with_its_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOBATCH_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder.make_folder() == cache_folder.make_folder() == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a") == ["b"]

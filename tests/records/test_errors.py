"""Errors say what happened, the facts and a hint."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from autobatch.records.errors import (
    AutobatchError,
    DeviceError,
    TargetError,
    UsageError,
    message_of,
    missing_file,
)


def test_an_error_shows_message_facts_and_hint() -> None:
    error = UsageError(
        "`--budget` is too small", code="no_budget", facts=("it is 1 ms",), hint="raise `--budget`"
    )
    text = str(error)
    for part in ("`--budget` is too small", "it is 1 ms", "raise `--budget`"):
        assert part in text
    assert text.index("too small") < text.index("1 ms") < text.index("raise")
    assert error.code == "no_budget"


def test_text_of_others_in_an_error_steers_no_terminal() -> None:
    error = TargetError("bad \x1b[2Jname", code="x", facts=("\u202efact",), hint="a\x07b")
    assert not set(str(error)) & {"\x1b", "\u202e", "\x07"}


def test_a_wrong_call_has_an_exit_status_apart_from_a_failure() -> None:
    assert UsageError.exit_status == 2
    assert {TargetError.exit_status, DeviceError.exit_status, AutobatchError.exit_status} == {1}


def test_the_text_of_an_exception_that_raises_another() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert message_of(ValueError("bad rows")) == "bad rows"
    assert "RuntimeError" in message_of(MuteError())


def test_a_missing_file_is_an_error_that_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    error = missing_file(tmp_path / "trian.py")
    assert error.code == "no_file"
    assert "train.py" in error.facts[0]
    assert "is a folder" in missing_file(tmp_path).message
    assert "there is no folder" in missing_file(tmp_path / "a" / "b.py").facts[0]


@pytest.mark.parametrize("kind", [UsageError, TargetError, DeviceError])
def test_an_error_survives_the_way_between_processes(kind: type[AutobatchError]) -> None:
    error = kind("it failed", code="failed", facts=("a", "b"), hint="try again")
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is kind
    assert (arrived.message, arrived.code, arrived.facts, arrived.hint) == (
        error.message,
        error.code,
        error.facts,
        error.hint,
    )

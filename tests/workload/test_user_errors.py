"""Errors of the user's code: their message in a line, and their place in that code."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autobatch.records.errors import TargetError
from autobatch.workload.user_errors import describe_error, exit_error, location_of

HERE = Path(__file__).name


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        function()
    return caught.value


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (ValueError("bad shard"), "ValueError: bad shard"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (KeyError(), "KeyError"),
        (TargetError("no sample", code="x", facts=("KeyError: 3", "at f.py:1")), "no sample: KeyError: 3"),
        (TargetError("no sample", code="x"), "no sample"),
        (MuteError(), "MuteError: (its text can't be had: RuntimeError)"),
    ],
)
def test_an_error_is_its_type_and_the_first_line_of_its_message(
    error: BaseException, description: str
) -> None:
    assert describe_error(error) == description


def test_a_message_that_holds_a_tensor_is_cut() -> None:
    assert len(describe_error(ValueError("1.0, " * 10_000))) == 2001


def test_the_location_is_the_innermost_line_outside_of_libraries() -> None:
    def parse() -> Any:
        return json.loads("{")

    (fact,) = location_of(raised(parse))
    assert fact == f"at {HERE}:{parse.__code__.co_firstlineno + 1}"


def test_an_error_that_no_user_code_raised_has_no_location() -> None:
    assert location_of(ValueError("never raised")) == ()


def test_a_target_that_exits() -> None:
    def leave() -> None:
        raise SystemExit(3)

    stopped = raised(leave)
    assert isinstance(stopped, SystemExit)
    error = exit_error("`net.py`", "it was imported", stopped)
    assert (error.code, error.message) == ("target_exits", "`net.py` called `sys.exit` while it was imported")
    assert error.facts[0] == "exit status: 3"
    assert error.facts[1].startswith(f"at {HERE}:")


def test_a_target_that_lacks_arguments_is_told_where_they_go() -> None:
    def parse() -> None:
        parser = ArgumentParser()
        parser.add_argument("--data", required=True)
        parser.parse_args([])

    stopped = raised(parse)
    assert isinstance(stopped, SystemExit)
    assert "after `--`" in exit_error("`net.py`", "it was imported", stopped).hint
    assert "after `--`" not in exit_error("`net.py`", "it was imported", SystemExit(1)).hint

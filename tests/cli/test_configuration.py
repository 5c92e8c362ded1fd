"""Settings from the file and from variables: their order, their errors, and who reads them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from autobatch import api
from autobatch.cli import commands, configuration, options
from autobatch.records.errors import UsageError

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The values of a command's options in a folder with this table in its file."""
    monkeypatch.chdir(tmp_path)

    def values(*arguments: str, table: str = "", **variables: str) -> dict[str, Any]:
        got: dict[str, Any] = {}

        @click.command(cls=options.Command)
        @options.budget
        @options.fresh
        @options.quiet
        @options.option(options.DEVICE, "--memory-limit", type=options.MEMORY)
        @options.option(options.SIZES, "--max-batch", type=options.COUNT)
        def command(**given: Any) -> None:
            got.update(given)

        (tmp_path / "pyproject.toml").write_text(f"[tool.autobatch]\n{table}\n")
        environment = {f"AUTOBATCH_{name}": value for name, value in variables.items()}
        ended = CliRunner().invoke(command, arguments, env=environment)
        if ended.exception is not None:
            raise ended.exception
        return got

    return values


def test_the_command_line_goes_before_variables_and_these_before_the_file(ask: Ask) -> None:
    table = 'max-batch = 8\nbudget = "2m"\nmemory-limit = "1GiB"\nfresh = true'
    values = ask("--max-batch", "32", table=table, MAX_BATCH="16", BUDGET="30s")
    assert values == {
        "max_batch": 32,
        "budget": 30.0,
        "memory_limit": 2**30,
        "fresh": True,
        "quiet": False,
    }
    assert ask(table="fresh = true", FRESH="0")["fresh"] is False
    assert ask(table="budget = 90")["budget"] == 90.0
    assert ask()["budget"] == 60.0


@pytest.mark.parametrize(
    ("table", "variables", "facts"),
    [
        ('max-batch = "x"', {}, ["from `max-batch` in [tool.autobatch] of `pyproject.toml`"]),
        ("max-batch = true", {}, ["from `max-batch` in [tool.autobatch] of `pyproject.toml`"]),
        ('fresh = "perhaps"', {}, ["from `fresh` in [tool.autobatch] of `pyproject.toml`"]),
        (
            "memory-limit = 3",
            {},
            ["without one it means 3 B", "from `memory-limit` in [tool.autobatch] of `pyproject.toml`"],
        ),
        ("", {"MAX_BATCH": "0"}, ["from the variable `AUTOBATCH_MAX_BATCH`"]),
        ("", {"BUDGET": "soon"}, ["from the variable `AUTOBATCH_BUDGET`"]),
        ("max-batch = [8]", {}, ["`max-batch` in [tool.autobatch] of `pyproject.toml`"]),
        ("[tool.autobatch.budget]", {}, ["`budget` in [tool.autobatch] of `pyproject.toml`"]),
    ],
)
def test_a_wrong_value_names_its_source(
    ask: Ask, table: str, variables: dict[str, str], facts: list[str]
) -> None:
    with pytest.raises(UsageError) as raised:
        ask(table=table, **variables)
    assert [*raised.value.facts][-len(facts) :] == facts


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("budgt", "did you mean `budget`?"),
        ("max_batch", "did you mean `max-batch`?"),
        ("json", "settings are "),
        ("quiet", "settings are "),
        ("colour", "settings are "),
    ],
)
def test_an_unknown_key_is_an_error(ask: Ask, key: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        ask(table=f"{key} = 1")
    assert f"`{key}` is no setting" in raised.value.message
    assert raised.value.hint.startswith(hint)


def test_a_misspelt_variable_is_an_error_and_others_are_not(ask: Ask) -> None:
    assert ask(CACHE="/tmp", WORKER="1", SOMETHING="else")["max_batch"] is None
    with pytest.raises(UsageError, match="AUTOBATCH_BUDGTE") as raised:
        ask(BUDGTE="30s")
    assert raised.value.hint == "did you mean `AUTOBATCH_BUDGET`?"


def test_help_and_completion_work_with_a_wrong_file(ask: Ask) -> None:
    assert ask("--help", table="budgt = 1") == {}


@pytest.mark.parametrize("text", ["[tool", "tool = 1", "[tool]\nautobatch = 3", "\xff"])
def test_a_file_that_can_not_be_meant(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode("latin-1"))
    if text == "tool = 1":
        assert configuration.read_file(tmp_path, ["budget"]) == {}
        return
    with pytest.raises(UsageError) as raised:
        configuration.read_file(tmp_path, ["budget"])
    assert raised.value.code == "bad_configuration"


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert configuration.read_file(tmp_path, ["budget"]) == {}


def test_every_option_of_a_measurement_is_a_setting() -> None:
    probe = commands.cli.commands["probe"]
    settings = {option.setting for option in probe.params if isinstance(option, options.Option)}
    assert {"budget", "device", "epochs", "memory-limit", "no-check", "seed"} <= settings
    assert not {"json", "quiet", "save", "html", "fallback"} & settings


def test_a_call_of_the_library_reads_no_configuration() -> None:
    assert "configuration" not in inspect.getsource(api)
    assert "AUTOBATCH_" not in inspect.getsource(api)

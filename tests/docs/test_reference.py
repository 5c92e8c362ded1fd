"""docs/reference.md leaves no option and no field of the JSON out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from autobatch.cli.commands import cli

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "autobatch" / "storage" / "schema.json").read_text(encoding="utf-8"))


def options() -> list[str]:
    """Of the commands that measure or predict, each once."""
    parameters = [one for name in ("probe", "plan") for one in cli.commands[name].params]
    found = [
        name for parameter in parameters if isinstance(parameter, click.Option) for name in parameter.opts
    ]
    return sorted(set(found))


@pytest.mark.parametrize("option", options())
def test_every_option_is_there(option: str) -> None:
    assert re.search(rf"`{option}[ `]", REFERENCE)


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_there(command: str) -> None:
    assert f"`autobatch {command} " in REFERENCE or f"`autobatch {command}`" in REFERENCE


@pytest.mark.parametrize("field", SCHEMA["$defs"]["Answer"]["properties"])
def test_every_field_of_an_answer_is_there(field: str) -> None:
    assert f"`{field}`" in REFERENCE

"""The types of options: a value that can be meant is read, any other is an error with a hint."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from autobatch.cli import options
from autobatch.records.errors import UsageError


@pytest.mark.parametrize(
    ("text", "amount_bytes"),
    [("600MiB", 600 * 2**20), ("1.5GiB", 1536 * 2**20), ("512KiB", 2**19), ("629145600", 600 * 2**20)],
)
def test_a_memory_limit(text: str, amount_bytes: int) -> None:
    assert options.MEMORY.convert(text, None, None) == amount_bytes


@pytest.mark.parametrize("text", ["3", "8", "1048575", " 600 "])
def test_a_small_memory_limit_needs_a_unit(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        options.MEMORY.convert(text, None, None)
    assert raised.value.code == "bad_bytes"
    assert raised.value.hint == f"write `{text.strip()}GiB` or `{text.strip()}MiB`"


@pytest.mark.parametrize(("text", "shape"), [("3,32,32", (3, 32, 32)), ("3x8x8", (3, 8, 8)), ("12", (12,))])
def test_a_shape(text: str, shape: tuple[int, ...]) -> None:
    assert options.SHAPE.convert(text, None, None) == shape


@pytest.mark.parametrize("text", ["", "3,", "0,3", "3,-1", "three", "3;3", "\x1b[2J"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        options.SHAPE.convert(text, None, None)
    assert raised.value.code == "bad_shape"
    assert raised.value.message.isprintable()


def test_help_groups_options_and_ends_with_those_of_click() -> None:
    @click.command(cls=options.Command)
    @click.argument("target")
    @click.option("--plain", help="An option without a heading.")
    @options.json_output
    @options.fresh
    @options.quiet
    def command(target: str) -> None:
        """Do nothing."""

    ended = CliRunner().invoke(command, ["--help"])
    lines = [line.split()[0] for line in ended.output.splitlines() if line.strip()]
    output, measurement, other = (lines.index(f"{name}:") for name in ("Output", "Measurement", "Other"))
    assert output < lines.index("--json") < lines.index("-q,") < measurement
    assert measurement < lines.index("--fresh") < other < lines.index("--plain") < lines.index("--help")
    assert "TARGET" not in lines

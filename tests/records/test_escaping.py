"""Text of others is harmless for a terminal, and nothing of it is lost."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.records.escaping import escaped_json, printable, printable_output

# Every code point, lone surrogates included.
ANY = st.text(st.characters(exclude_categories=()))


def steering(text: str) -> list[str]:
    return [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@given(ANY)
def test_nothing_printable_steers(text: str) -> None:
    assert steering(printable(text)) == []


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert printable_output(text, colour=False) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\u202eb", r"a\u202eb"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("two\nlines", r"two\x0alines"),
    ],
)
def test_characters_that_steer_are_shown_by_their_codes(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY, st.booleans())
def test_a_printed_line_steers_nothing_but_its_colours(line: str, colour: bool) -> None:
    shown = printable_output(line, colour=colour)
    left = [char for char in steering(shown) if char not in "\t\x1b"]
    assert left == []
    assert colour or "\x1b" not in shown


@given(st.dictionaries(ANY, st.integers() | ANY))
def test_escaped_json_is_the_same_document(document: dict[str, int | str]) -> None:
    written = json.dumps(document, indent=2, ensure_ascii=False)
    escaped = escaped_json(written)
    assert [char for char in steering(escaped) if char != "\n"] == []
    assert json.loads(escaped) == document

"""Records as JSON: every value has its place, and what can't be a record is refused with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf, nan

import pytest

from autobatch.records.errors import SavedResultError
from autobatch.storage import json_records


@dataclass(frozen=True, slots=True)
class Part:
    share: float


@dataclass(frozen=True, slots=True)
class Whole:
    name: str
    count: int
    rate: float | None = None
    pair: tuple[float, float] | None = None
    parts: tuple[Part, ...] = ()


def converted(text: str) -> Whole:
    document = json_records.decode(text, "`w.json`")
    assert isinstance(document, dict)
    return json_records.convert(document, Whole, text, "`w.json`")


def test_a_record_comes_back() -> None:
    whole = Whole(name="\x1b ü", count=3, rate=0.5, pair=(1.0, 2.0), parts=(Part(share=0.1), Part(share=0.9)))
    text = json_records.encode(json_records.values_of(whole))
    assert text.replace("\n", "").isprintable()
    assert converted(text) == whole


def test_figures_that_were_not_measured_become_null_or_leave() -> None:
    whole = Whole(name="\ud800", count=1, rate=nan, pair=(1.0, inf), parts=(Part(share=nan), Part(share=0.2)))
    assert json_records.values_of(whole) == {
        "name": r"\ud800",
        "count": 1,
        "rate": None,
        "pair": None,
        "parts": [{"share": 0.2}],
    }


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('{"name": "a"}', "`count`"),
        ('{"name": "a", "count": "1"}', "Expected `int`"),
        ('{"name": "a", "count": -1}', "`count` is -1"),
        ('{"name": "a", "count": 1, "count": 2}', "`count` comes more than once"),
        ('{"name": "a", "count": 1, "more": [1' + "0" * 100 + "]}", "more than 100 digits"),
    ],
)
def test_damage_is_named(text: str, fact: str) -> None:
    with pytest.raises(SavedResultError) as raised:
        converted(text)
    assert raised.value.code == "damaged_result"
    assert fact in raised.value.facts[0]
    assert raised.value.message == "`w.json` is damaged"


def test_fields_that_the_record_lacks_are_ignored() -> None:
    assert converted(json.dumps({"name": "a", "count": 1, "mood": "fine"})) == Whole(name="a", count=1)

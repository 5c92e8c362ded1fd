"""A member is its value in every text, with every Python."""

from __future__ import annotations

import pickle

import msgspec

from autobatch.records.str_enum import StrEnum


class Colour(StrEnum):
    RED = "red"


def test_a_member_is_its_value() -> None:
    assert isinstance(Colour.RED, str)
    assert str(Colour.RED) == f"{Colour.RED}" == f"{Colour.RED:s}" == "red"
    assert f"{Colour.RED:>5}" == "  red"
    assert Colour("red") is Colour.RED
    assert [*Colour] == [Colour.RED]


def test_a_member_survives_json_and_pickle() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Colour.RED), type=Colour) is Colour.RED
    assert pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED

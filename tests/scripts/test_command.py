from __future__ import annotations

import pytest

from autobatch.records.errors import UsageError
from autobatch.scripts.command import parse


def test_variables_before_the_command_are_its_environment():
    command = parse(["BS={batch_size}", "LR=0.1", "python", "train.py", "X=1"])
    assert command.words == ("python", "train.py", "X=1")
    assert command.filled(8).environment == {"BS": "8", "LR": "0.1"}


def test_a_command_that_is_missing_is_an_error():
    with pytest.raises(UsageError) as raised:
        parse(["BS=3"])
    assert raised.value.code == "usage"


def test_a_placeholder_is_filled_wherever_it_stands():
    command = parse(["python", "train.py", "--bs={batch_size=64}", "train.batch_size={batch_size}"])
    assert command.has_placeholder
    assert command.placeholder_size == 64
    assert command.filled(128).words[2:] == ("--bs=128", "train.batch_size=128")


@pytest.mark.parametrize(
    ("words", "flags", "changed"),
    [
        ("t.py --batch-size 32 -v", ("--batch-size", "-b"), "t.py --batch-size 64 -v"),
        ("t.py -b 32 x", ("--batch-size", "-b"), "t.py -b 64 x"),
        ("t.py --batch-size=32", ("--batch-size",), "t.py --batch-size=64"),
        ("t.py", ("--batch-size", "-b"), "t.py --batch-size 64"),
        ("t.py train.bs=3 +train.bs=4", ("train.bs",), "t.py train.bs=3 +train.bs=64"),
        ("t.py", ("train.bs",), "t.py train.bs=64"),
    ],
)
def test_a_flag_is_changed_where_it_counts(words: str, flags: tuple[str, ...], changed: str):
    assert parse(words.split()).with_flag(flags, "64").words == tuple(changed.split())


def test_the_text_can_be_pasted_into_a_shell():
    assert parse(["A=1", "python", "my train.py"]).text == "A=1 python 'my train.py'"

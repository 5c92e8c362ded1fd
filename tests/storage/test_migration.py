"""A result that the first version wrote: it loads, is shown, and can't be decided again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autobatch import load
from autobatch.records.device import MemoryUser
from autobatch.records.errors import SavedResultError, not_decidable
from autobatch.reports.html import document
from autobatch.reports.text import terminal
from autobatch.storage import codec

# Written by `save` before schema 2.
FILE = Path(__file__).with_name("schema_1.json")


def first(change: Callable[[dict[str, Any]], object] = lambda written: None) -> str:
    """The file's text after a change to its values."""
    written = json.loads(FILE.read_text(encoding="utf-8"))
    assert written["schema"] == "autobatch/1"
    change(written)
    return json.dumps(written)


def test_every_field_that_was_renamed_has_its_value() -> None:
    written, answer = json.loads(first()), load(FILE)
    assert written["present"]["batch_size"] == 128
    assert answer.current is not None
    assert answer.current.batch_size == 128
    assert answer.current.relative_time == written["present"]["relative_time"]
    assert answer.loader is not None
    assert answer.loader.sufficient_workers == written["loader"]["lifts"] == 4
    assert answer.device.memory_users == (MemoryUser(pid=4242, name="python", memory_bytes=2 * 2**30),)
    assert answer.batch_size == written["batch_size"]
    assert len(answer.trials) == len(written["trials"])
    assert answer.check is not None
    assert len(answer.check.trainings) == len(written["check"]["trainings"])


def test_it_is_shown_and_marked(golden: Callable[[str | Path, str], None]) -> None:
    answer = load(FILE)
    assert not answer.decidable
    golden("text/schema_1.txt", terminal.render(answer))
    page = document.render(answer)
    assert "<!doctype html>" in page
    assert 'class="vetoed"' in page


def test_the_mark_stays_when_it_is_saved_anew() -> None:
    again = codec.render(load(FILE))
    assert json.loads(again)["schema"] == "autobatch/2"
    assert codec.parse(again) == load(FILE)
    assert not codec.parse(again).decidable


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda written: written.update(device=None), "damaged_result"),
        (lambda written: written.update(present=3), "damaged_result"),
        (lambda written: written["device"].update(holders="many"), "damaged_result"),
        (lambda written: written.update(batch_size=33), "damaged_result"),
        (lambda written: written.update(ok=False, error={"message": "no model"}), "saved_error"),
        (lambda written: written.update(ok=None), "damaged_result"),
    ],
)
def test_damage_is_told_as_in_a_file_of_today(change: Callable[[dict[str, Any]], object], code: str) -> None:
    with pytest.raises(SavedResultError) as raised:
        codec.parse(first(change))
    assert raised.value.code == code


def test_records_that_are_not_there_are_no_damage() -> None:
    answer = codec.parse(first(lambda written: written.update(loader=None, check=None, present=None)))
    assert (answer.loader, answer.check, answer.current) == (None, None, None)


def test_the_error_for_deciding_it_again_has_a_way_out() -> None:
    error = not_decidable()
    assert isinstance(error, SavedResultError)
    assert error.code == "not_decidable"
    assert "probe again" in error.hint

"""The JSON report: what is written reads back as it was, fits its schema, and damage is told as such."""

from __future__ import annotations

import json as stdlib_json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from math import inf, nan
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.recommender import decide_again
from autobatch.records.device import Device
from autobatch.records.errors import SavedResultError, TargetError
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.records.scaling import DeviceCount, Scaling
from autobatch.records.trial import Ceiling, Gain, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload
from autobatch.storage import codec
from tests.golden.test_text_report import CASES
from tests.strategies import ANY_FLOATS, recommendations, trials

SCHEMA_FILE = Path(codec.__file__).with_name("schema.json")
ANY_TEXTS = st.text(st.characters(), max_size=30)  # lone surrogates included

SMALL = Recommendation(
    batch_size=8,
    accumulation_steps=2,
    world_size=1,
    global_batch_size=16,
    learning_rate=None,
    ceiling=Ceiling(batch_size=8, limited_by=LimitedBy.MEMORY, verified=True),
    trials=(
        Trial(batch_size=8, outcome=Outcome.OK, step_seconds=(0.1, 0.11), samples_per_second=75.0),
        Trial(batch_size=16, outcome=Outcome.OUT_OF_MEMORY, detail="asked for 3.0 MiB"),
    ),
    check=None,
    why="it is the largest that fits",
    warnings=("one",),
    workload=Workload(target="m.py", model="Net", parameters=1, loss="mse", optimizer="AdamW"),
    device=Device(kind="cpu", index=0, name="a CPU"),
)


@cache
def validator() -> jsonschema.Draft202012Validator:
    schema = codec.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def strictly(text: str) -> Any:
    """The document, by a reader that takes neither NaN nor a name that comes twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return stdlib_json.loads(text, parse_constant=refuse, object_pairs_hook=once)


@given(recommendations())
def test_what_is_written_reads_back(recommendation: Recommendation) -> None:
    assert codec.parse(codec.render(recommendation)) == recommendation


@settings(max_examples=50)
@given(recommendations(texts=ANY_TEXTS, floats=ANY_FLOATS))
def test_any_record_gives_a_document_of_the_schema(recommendation: Recommendation) -> None:
    """NaN, infinities and lone surrogates included: they can be measured or met, and JSON lacks them."""
    text = codec.render(recommendation)
    validator().validate(strictly(text))
    again = codec.parse(text)
    assert codec.render(again) == text
    assert again.chosen.batch_size == recommendation.batch_size


@settings(max_examples=50)
@given(ANY_TEXTS, st.lists(ANY_TEXTS, max_size=3), st.lists(trials(ANY_TEXTS, ANY_FLOATS), max_size=3))
def test_any_error_gives_a_document_of_the_schema(word: str, facts: list[str], done: list[Trial]) -> None:
    error = TargetError(word, code=word, facts=tuple(facts), hint=word)
    document = strictly(codec.render_error(error, done))
    validator().validate(document)
    assert document["ok"] is False
    assert [trial["batch_size"] for trial in document["trials"]] == [trial.batch_size for trial in done]


@pytest.mark.parametrize("name", ["same_epochs_change", "same_epochs_keep"])
def test_a_saved_decision_reads_back_and_is_decided_alike(name: str) -> None:
    answer = CASES[name]()
    again = codec.parse(codec.render(answer))
    assert again == answer
    assert decide_again(again) == answer


def test_the_names_that_others_rely_on() -> None:
    document = strictly(codec.render(SMALL))
    assert list(document) == ["schema", "ok", *(field.name for field in fields(Recommendation))]
    promised = {"batch_size", "accumulation_steps", "world_size", "global_batch_size", "learning_rate"}
    promised |= {"ceiling", "trials", "check", "why", "warnings", "device", "environment"}
    assert promised <= set(document)
    assert document["schema"] == "autobatch/2"
    assert document["ok"] is True
    assert document["check"] is None
    assert {"batch_size", "limited_by", "verified"} <= set(document["ceiling"])
    first, last = document["trials"]
    assert first["step_seconds"] == [0.1, 0.11]
    assert {"batch_size", "outcome", "step_seconds", "samples_per_second", "peak_bytes"} <= set(first)
    assert last["outcome"] == "out_of_memory"


def test_an_error() -> None:
    error = TargetError("no model", code="no_model", facts=("a", "b"), hint="write one")
    assert strictly(codec.render_error(error)) == {
        "schema": "autobatch/2",
        "ok": False,
        "error": {"code": "no_model", "message": "no model", "facts": ["a", "b"], "hint": "write one"},
        "trials": [],
    }


def test_figures_that_json_lacks() -> None:
    gain = Gain(over=4, ratio=1.0, low=-inf, high=inf, rounds=3, decided=False)
    trial = replace(
        SMALL.trials[0],
        step_seconds=(0.1, nan),
        samples_per_second=inf,
        samples_per_second_interval=(1.0, inf),
        gain=gain,
    )
    document = strictly(codec.render(replace(SMALL, trials=(trial,), why="bad \udcff name")))
    written = document["trials"][0]
    assert written["step_seconds"] == [0.1]
    assert written["samples_per_second"] is None
    assert written["samples_per_second_interval"] is None
    assert written["gain"] is None
    assert document["why"] == r"bad \udcff name"


def test_a_record_that_lacks_its_figure_leaves_its_list() -> None:
    known = DeviceCount(devices=2, batch_size=8, global_batch_size=16, relative_time=0.6)
    unknown = replace(known, devices=4, relative_time=inf)
    scaling = Scaling(counts=(known, unknown), useful_devices=None)
    written = codec.parse(codec.render(replace(SMALL, scaling=scaling)))
    assert written.scaling == replace(scaling, counts=(known,))


def test_the_schema_file_is_current(golden: Callable[[str | Path, str], None]) -> None:
    golden(SCHEMA_FILE, stdlib_json.dumps(codec.schema(), indent=2))


@pytest.mark.parametrize(
    "change",
    [
        {"ok": "yes"},
        {"schema": "autobatch/0"},
        {"batch_size": None},
        {"trials": [{"batch_size": 8}]},
        {"ceiling": {"batch_size": 8, "limited_by": "luck", "verified": True, "detail": ""}},
    ],
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    assert not validator().is_valid({**strictly(codec.render(SMALL)), **change})


def refused(text: str) -> SavedResultError:
    with pytest.raises(SavedResultError) as caught:
        codec.parse(text, name="`r.json`")
    error = caught.value
    assert error.message.startswith("`r.json` ")
    assert error.facts
    assert error.hint
    assert str(error).replace("\n", "").isprintable()
    return error


def changed(**values: Any) -> str:
    return stdlib_json.dumps({**strictly(codec.render(SMALL)), **values})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ("nonsense", "not_json"),
        (codec.render(SMALL)[:-20], "not_json"),
        (codec.render(SMALL) * 2, "not_json"),
        ('"\\ud800"', "not_json"),
        ("\ud800", "not_json"),
        ("[" * 10**6, "damaged_result"),
        ('{"a":' * 10**6, "damaged_result"),
        (changed(why="x").replace('"x"', "[" * 900 + "]" * 900), "damaged_result"),
        ("[]", "not_a_result"),
        ("null", "not_a_result"),
        ("{}", "not_a_result"),
        ('{"schema": 1}', "not_a_result"),
        ('{"schema": "other/1"}', "not_a_result"),
        ('{"schema": "\\u001b[2Jautobatch/2"}', "not_a_result"),
        (changed(schema="autobatch/9"), "wrong_version"),
        (changed(schema="autobatch/0"), "wrong_version"),
        (changed(ok=None), "damaged_result"),
        (changed(ok=1), "damaged_result"),
        (codec.render_error(TargetError("no\x1b model", code="no_model")), "saved_error"),
        (changed(batch_size="8"), "damaged_result"),
        (changed(batch_size=8.0), "damaged_result"),
        (changed(batch_size=True), "damaged_result"),
        (changed(batch_size=4), "damaged_result"),
        (changed(batch_size=16), "damaged_result"),
        (changed(batch_size=-8, accumulation_steps=-2), "damaged_result"),
        (changed(global_batch_size=17), "damaged_result"),
        (changed(world_size=int("9" * 200)), "damaged_result"),
        (changed(trials=[]), "damaged_result"),
        (changed(trials=None), "damaged_result"),
        (changed(trials=[{"batch_size": 8, "outcome": "great"}]), "damaged_result"),
        (changed(limits={"min_batch": 0}), "damaged_result"),
        (changed(device=None), "damaged_result"),
        (changed(warnings="text"), "damaged_result"),
        (changed().replace("75.0", "NaN"), "not_json"),
        (changed().replace("75.0", "1e999"), "not_json"),
        (changed().replace("75.0", "9" * 5000), "not_json"),
    ],
)
def test_damage_is_told(text: str, code: str) -> None:
    assert refused(text).code == code


def test_the_messages() -> None:
    error = refused(changed(batch_size="8"))
    assert error.message == "`r.json` is damaged"
    assert error.facts == ("Expected `int`, got `str` - at `$.batch_size`",)
    error = refused(changed(schema="autobatch/9"))
    assert error.facts == ("its schema is `autobatch/9`; this version reads `autobatch/2`",)
    assert error.hint == "install a newer autobatch, or probe again with `--save`"
    error = refused(codec.render_error(TargetError("no model", code="no_model")))
    assert (error.message, error.facts) == ("`r.json` holds an error, not a result", ("no model",))


def test_fields_of_later_versions_are_ignored() -> None:
    document = strictly(codec.render(SMALL))
    document["trials"][0]["mood"] = "fine"
    assert codec.parse(stdlib_json.dumps({**document, "more": [1]})) == SMALL


def test_fields_of_earlier_versions_take_their_defaults() -> None:
    document = strictly(codec.render(SMALL))
    del document["limits"], document["environment"], document["trials"][0]["phase"]
    assert codec.parse(stdlib_json.dumps(document)) == replace(SMALL, limits=Limits())


@settings(max_examples=200)
@given(st.data())
def test_no_damage_crashes(data: st.DataObject) -> None:
    """Cut, doubled or overwritten anywhere, a document is either refused as such or still an answer."""
    text = codec.render(SMALL)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    text = text[:start] + data.draw(st.text(max_size=5)) + text[end:]
    try:
        found = codec.parse(text)
    except SavedResultError:
        return
    assert found.chosen.batch_size == found.batch_size

"""The report for programs: one versioned JSON object, for answers and for errors alike.

`schema.json` beside this file describes both forms; `pytest --update-golden` rewrites it.
"""

from __future__ import annotations

import json as stdlib_json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from inspect import cleandoc
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from autobatch.records.errors import AutobatchError, SavedResultError
from autobatch.records.escaping import escaped_json, printable
from autobatch.records.plan import Plan
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Trial

if TYPE_CHECKING:
    from autobatch.records.fleet import Fleet

SCHEMA = "autobatch/2"
PLAN_SCHEMA = "autobatch-plan/1"
FLEET_SCHEMA = "autobatch-fleet/1"

_DAMAGED = "the file was cut short or changed since it was saved; probe again with `--save`"


def render(recommendation: Recommendation) -> str:
    """One JSON object: `schema`, `ok`: true, and the fields of the recommendation."""
    return _encode({"schema": SCHEMA, "ok": True, **_plain(recommendation)})


def render_plan(plan: Plan) -> str:
    """One JSON object: `schema`, `ok`: true, and the fields of the plan, `predicted`: true among them."""
    return _encode({"schema": PLAN_SCHEMA, "ok": True, **_plain(plan)})


def render_fleet(fleet: Fleet) -> str:
    """One JSON object: `schema`, `ok`: true, and the fields of the fleet, each kind's answer among them."""
    return _encode({"schema": FLEET_SCHEMA, "ok": True, **_plain(fleet)})


def render_error(error: AutobatchError, trials: Iterable[Trial] = ()) -> str:
    """One JSON object: `schema`, `ok`: false, the error, and the trials measured before it."""
    told = {"code": error.code, "message": error.message, "facts": list(error.facts), "hint": error.hint}
    return _encode(
        {"schema": SCHEMA, "ok": False, "error": _clean(told), "trials": [_plain(trial) for trial in trials]}
    )


def parse(text: str, *, name: str = "the document") -> Recommendation:
    """The recommendation that `render` wrote, checked field by field; fields of later versions are ignored.

    `name` is what errors call the text. Raises SavedResultError for anything else.
    """
    document = _object(text, name)
    version = document.get("schema")
    if version != SCHEMA:
        raise _wrong_version(version, name)
    if document.get("ok") is not True:
        raise _not_an_answer(document, name)
    try:
        fact = _twice(text)
        if _has_absurd_figure(document):
            fact = "a whole number in it has more than 100 digits"
        found = msgspec.convert(document, Recommendation, strict=True)
    # Validation in the records raises ValueError; a figure too large for its type, OverflowError.
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise _damaged(name, str(error)) from error
    if fact := fact or _negative(found) or _contradiction(found):
        raise _damaged(name, fact)
    return found


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of both forms, as this version writes them: every field is there."""
    _, parts = msgspec.json.schema_components((Recommendation, Trial), ref_template="#/$defs/{name}")
    for part in parts.values():
        # Docstrings keep their indent or lose it, as the version of Python has it.
        part["description"] = cleandoc(part.get("description", ""))
        if "properties" in part:
            part["required"] = list(part["properties"])
            for described in part["properties"].values():
                # Defaults are the constructor's business: a document leaves nothing out.
                described.pop("default", None)
    text = {"type": "string"}
    texts = {"type": "array", "items": text}
    trials = {"type": "array", "items": {"$ref": "#/$defs/Trial"}}
    parts["Error"] = _described(
        "Error",
        "`code` is a stable word for programs; the rest is for people.",
        {"code": text, "message": text, "facts": texts, "hint": text},
    )
    failure = _described(
        "Failure",
        "What went wrong, and the trials measured before it.",
        {"error": {"$ref": "#/$defs/Error"}, "trials": trials},
    )
    parts["Answer"] = _versioned(parts.pop("Recommendation"), ok=True)
    parts["Failure"] = _versioned(failure, ok=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        "description": "What `autobatch probe --json` and `--save` write: an answer or an error.",
        "oneOf": [{"$ref": "#/$defs/Answer"}, {"$ref": "#/$defs/Failure"}],
        "$defs": dict(sorted(parts.items())),
    }


def _described(title: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    required = list(properties)
    return {
        "title": title,
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
    }


def _versioned(part: dict[str, Any], *, ok: bool) -> dict[str, Any]:
    """`part` with the two fields that every document begins with."""
    return {
        **part,
        "properties": {"schema": {"const": SCHEMA}, "ok": {"const": ok}, **part["properties"]},
        "required": ["schema", "ok", *part["required"]],
    }


def _encode(document: dict[str, Any]) -> str:
    return escaped_json(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def _plain(record: Any) -> Any:
    """A record as JSON values, with every field.

    JSON has no NaN and no infinity, and such a figure was not measured: it becomes null, and so does a
    record that can't do without it (a gain). What becomes null leaves a list of any length.
    """
    values: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if _unmeasured(value):
            if field.type == "float":
                return None
            values[field.name] = None
        elif isinstance(value, tuple):
            values[field.name] = _list(value, of_any_length=str(field.type).endswith("...]"))
        else:
            values[field.name] = _clean(value)
    return values


def _list(items: tuple[Any, ...], *, of_any_length: bool) -> list[Any] | None:
    """`items` as JSON values, without those that were not measured; a pair that lacks one is None."""
    plain = [None if _unmeasured(item) else _clean(item) for item in items]
    if of_any_length:
        return [item for item in plain if item is not None]
    return None if any(map(_unmeasured, items)) else plain


def _unmeasured(value: object) -> bool:
    return isinstance(value, float) and not isfinite(value)


def _clean(value: Any) -> Any:
    """`value` as JSON can hold it: a lone surrogate, which a file name may hold, becomes its escape."""
    if isinstance(value, str):
        return "".join(printable(char) if "\ud800" <= char <= "\udfff" else char for char in value)
    if is_dataclass(value):
        return _plain(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise SavedResultError(
            f"{name} is not JSON", code="not_json", facts=(printable(str(error)),), hint=_DAMAGED
        ) from error
    except RecursionError as error:
        raise _damaged(name, "it is nested too deeply") from error
    if not isinstance(document, dict):
        raise _wrong_version(None, name)
    return document


def _twice(text: str) -> str:
    """What to say of a field that comes twice, of which readers of JSON take one or the other; else empty."""
    twice: set[str] = set()

    def look(pairs: list[tuple[str, object]]) -> None:
        once: set[str] = set()
        for name, _ in pairs:
            (twice if name in once else once).add(name)

    stdlib_json.loads(text, object_pairs_hook=look)
    return f"its field `{min(twice)}` comes more than once" if twice else ""


def _has_absurd_figure(value: object) -> bool:
    """True where a whole number is so long that even printing it may fail."""
    if isinstance(value, dict):
        return any(map(_has_absurd_figure, value.values()))
    if isinstance(value, list):
        return any(map(_has_absurd_figure, value))
    return isinstance(value, int) and abs(value) >= 10**100


def _negative(value: object, name: str = "") -> str:
    """What to say of a count, a size or an amount below zero in a record; empty where there is none."""
    if isinstance(value, tuple):
        return next(filter(None, (_negative(item, name) for item in value)), "")
    if is_dataclass(value):
        parts = (_negative(getattr(value, field.name), field.name) for field in fields(value))
        return next(filter(None, parts), "")
    below = isinstance(value, int) and value < 0 and name != "seed"
    return f"`{name}` is {value}" if below else ""


def _wrong_version(version: object, name: str) -> SavedResultError:
    family, _, number = version.partition("/") if isinstance(version, str) else ("", "", "")
    if family == "autobatch" and number.isdigit():
        return SavedResultError(
            f"{name} was written by another version of autobatch",
            code="wrong_version",
            facts=(f"its schema is `{printable(str(version)[:80])}`; this version reads `{SCHEMA}`",),
            hint="install a newer autobatch, or probe again with `--save`",
        )
    fact = "it has no `schema` field"
    if version is not None:
        fact = f"its `schema` is `{printable(str(version)[:80])}`, not `{SCHEMA}`"
    return SavedResultError(
        f"{name} is not an autobatch result",
        code="not_a_result",
        facts=(fact,),
        hint="give a file that `autobatch probe --save` wrote",
    )


def _not_an_answer(document: dict[str, Any], name: str) -> SavedResultError:
    error = document.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    if document.get("ok") is not False or not isinstance(message, str):
        return _damaged(name, "`ok` is neither true nor false with an error")
    return SavedResultError(
        f"{name} holds an error, not a result",
        code="saved_error",
        facts=(printable(message[:500]),),
        hint="repair what it says and probe again",
    )


def _damaged(name: str, fact: str) -> SavedResultError:
    return SavedResultError(
        f"{name} is damaged", code="damaged_result", facts=(printable(fact[:500]),), hint=_DAMAGED
    )


def _contradiction(found: Recommendation) -> str:
    """What the records can't say by their types alone: the answer has to stand on a measurement."""
    sizes = (found.batch_size, found.accumulation_steps, found.world_size)
    if min(sizes) < 1:
        return "`batch_size`, `accumulation_steps` and `world_size` must be at least 1"
    if not any(trial.ok and trial.batch_size == found.batch_size for trial in found.trials):
        return f"`batch_size` {found.batch_size} is not among the trials that passed"
    if sizes[0] * sizes[1] * sizes[2] != found.global_batch_size:
        product = " x ".join(map(str, sizes))
        return f"`global_batch_size` {found.global_batch_size} is not {product}"
    return ""

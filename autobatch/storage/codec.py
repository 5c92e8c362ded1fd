"""The JSON of answers, plans, fleets and errors: one versioned object each, and its way back.

`schema.json` beside this file describes both forms; `pytest --update-golden` rewrites it.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import msgspec

from autobatch.records.errors import AutobatchError, SavedResultError
from autobatch.records.escaping import printable
from autobatch.records.plan import Plan
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Trial
from autobatch.storage import migration
from autobatch.storage.json_records import clean, convert, damaged, decode, encode, values_of

if TYPE_CHECKING:
    from autobatch.records.comparison import ResultComparison
    from autobatch.records.fleet import Fleet
    from autobatch.records.preview import Preview

SCHEMA = "autobatch/2"
PLAN_SCHEMA = "autobatch-plan/1"
FLEET_SCHEMA = "autobatch-fleet/1"
COMPARISON_SCHEMA = "autobatch-comparison/1"
PREVIEW_SCHEMA = "autobatch-preview/1"


def render(recommendation: Recommendation) -> str:
    """Render an answer as one JSON object: `schema`, `ok` (true), and its fields."""
    return encode({"schema": SCHEMA, "ok": True, **values_of(recommendation)})


def render_plan(plan: Plan) -> str:
    """Render a plan as one JSON object: `schema`, `ok` (true), and its fields with `predicted` (true)."""
    return encode({"schema": PLAN_SCHEMA, "ok": True, **values_of(plan)})


def render_fleet(fleet: Fleet) -> str:
    """Render a fleet as one JSON object: `schema`, `ok` (true), and its fields with each kind's answer."""
    return encode({"schema": FLEET_SCHEMA, "ok": True, **values_of(fleet)})


def render_comparison(comparison: ResultComparison) -> str:
    """Render a comparison of two results as one JSON object: `schema`, `ok` (true), and its fields."""
    return encode({"schema": COMPARISON_SCHEMA, "ok": True, **values_of(comparison)})


def render_preview(preview: Preview) -> str:
    """Render a preview as one JSON object: `schema`, `ok` (true), and its fields."""
    return encode({"schema": PREVIEW_SCHEMA, "ok": True, **values_of(preview)})


def render_error(error: AutobatchError, trials: Iterable[Trial] = ()) -> str:
    """Render an error as one JSON object: `schema`, `ok` (false), and the trials measured before it."""
    fields = {"code": error.code, "message": error.message, "facts": list(error.facts), "hint": error.hint}
    measured = [values_of(trial) for trial in trials]
    return encode({"schema": SCHEMA, "ok": False, "error": clean(fields), "trials": measured})


def parse(text: str, *, name: str = "the document") -> Recommendation:
    """Read the recommendation that `render` wrote, checked field by field; unknown fields are ignored.

    A result of schema 1 is read too, with `decidable` False. Errors call the text `name`. Raises
    SavedResultError for anything else.
    """
    document = decode(text, name)
    version = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(document, dict) or version not in (SCHEMA, migration.FIRST_SCHEMA):
        raise _wrong_version(version, name)
    if document.get("ok") is not True:
        raise _not_an_answer(document, name)
    if version == migration.FIRST_SCHEMA:
        document = migration.migrate_first(document)
    answer = convert(document, Recommendation, text, name)
    if fact := _contradiction(answer):
        raise damaged(name, fact)
    return answer


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of answers and errors as this version writes them, with all fields."""
    _, parts = msgspec.json.schema_components((Recommendation, Trial), ref_template="#/$defs/{name}")
    for part in parts.values():
        # Whether docstrings keep their indent depends on the version of Python.
        part["description"] = cleandoc(part.get("description", ""))
        if "properties" in part:
            part["required"] = list(part["properties"])
            for described in part["properties"].values():
                # A document leaves no field out, so a default would say nothing.
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
    """Return `part` with the two fields that begin every document."""
    return {
        **part,
        "properties": {"schema": {"const": SCHEMA}, "ok": {"const": ok}, **part["properties"]},
        "required": ["schema", "ok", *part["required"]],
    }


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
        return damaged(name, "`ok` is neither true nor false with an error")
    return SavedResultError(
        f"{name} holds an error, not a result",
        code="saved_error",
        facts=(printable(message[:500]),),
        hint="resolve that error and probe again",
    )


def _contradiction(answer: Recommendation) -> str:
    """Describe an answer that no measurement supports, which types alone can't exclude; empty if none."""
    sizes = (answer.batch_size, answer.accumulation_steps, answer.world_size)
    if min(sizes) < 1:
        return "`batch_size`, `accumulation_steps` and `world_size` must be at least 1"
    if not any(trial.ok and trial.batch_size == answer.batch_size for trial in answer.trials):
        return f"`batch_size` {answer.batch_size} is not among the trials that passed"
    if sizes[0] * sizes[1] * sizes[2] != answer.global_batch_size:
        product = " x ".join(map(str, sizes))
        return f"`global_batch_size` {answer.global_batch_size} is not {product}"
    return ""

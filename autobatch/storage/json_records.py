"""Records as JSON text and back: every field is written, and every value is checked as it is read."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any, TypeVar

import msgspec

from autobatch.records.errors import SavedResultError
from autobatch.records.escaping import escaped_json, printable

Record = TypeVar("Record")

_REPAIR = "the file was cut short or changed since it was saved; probe again with `--save`"
_MAX_FACT_CHARACTERS = 500
_MAX_DIGITS = 100


def encode(document: dict[str, Any]) -> str:
    """Render JSON values as indented text that steers no terminal."""
    return escaped_json(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def values_of(record: Any) -> Any:
    """Return a record as JSON values, with every field.

    JSON has no NaN and no infinity, so an unmeasured figure becomes null. A record that needs the figure
    becomes null as a whole; so does a pair. A null leaves a list of variable length.
    """
    values: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if _unmeasured(value):
            if field.type == "float":
                return None
            values[field.name] = None
        elif isinstance(value, tuple):
            items = _list(value, of_any_length=str(field.type).endswith("...]"))
            if items is None and not str(field.type).endswith("| None"):
                return None
            values[field.name] = items
        else:
            values[field.name] = clean(value)
    return values


def clean(value: Any) -> Any:
    """Return `value` as JSON can hold it: a lone surrogate, as in some file names, becomes its escape."""
    if isinstance(value, str):
        return "".join(printable(char) if "\ud800" <= char <= "\udfff" else char for char in value)
    if is_dataclass(value):
        return values_of(value)
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


def decode(text: str, name: str) -> object:
    """Read JSON text. Raises SavedResultError, which calls the text `name`, for anything else."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise SavedResultError(
            f"{name} is not JSON", code="not_json", facts=(printable(str(error)),), hint=_REPAIR
        ) from error
    except RecursionError as error:
        raise damaged(name, "it is nested too deeply") from error


def convert(document: dict[str, Any], record: type[Record], text: str, name: str) -> Record:
    """Build a record from JSON values and check each field; unknown fields are ignored.

    `text` is what the values were read from. Raises SavedResultError for values that no search can produce.
    """
    try:
        fact = _repeated_field(text)
        if _has_absurd_figure(document):
            fact = f"a whole number in it has more than {_MAX_DIGITS} digits"
        converted = msgspec.convert(document, record, strict=True)
    # Validation in the records raises ValueError; a figure too large for its type, OverflowError.
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise damaged(name, str(error)) from error
    if fact := fact or _negative_figure(converted):
        raise damaged(name, fact)
    return converted


def damaged(name: str, fact: str) -> SavedResultError:
    """Return the error for a text that is JSON but not the record it should be."""
    facts = (printable(fact[:_MAX_FACT_CHARACTERS]),)
    return SavedResultError(f"{name} is damaged", code="damaged_result", facts=facts, hint=_REPAIR)


def _list(items: tuple[Any, ...], *, of_any_length: bool) -> list[Any] | None:
    """Return `items` as JSON values without unmeasured figures; a pair that lacks a figure is None."""
    values = [None if _unmeasured(item) else clean(item) for item in items]
    if of_any_length:
        return [item for item in values if item is not None]
    return None if any(map(_unmeasured, items)) else values


def _unmeasured(value: object) -> bool:
    return isinstance(value, float) and not isfinite(value)


def _repeated_field(text: str) -> str:
    """Describe a field that comes twice, of which readers of JSON take either; empty without any."""
    repeated: set[str] = set()

    def look(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            (repeated if name in seen else seen).add(name)

    json.loads(text, object_pairs_hook=look)
    return f"its field `{min(repeated)}` comes more than once" if repeated else ""


def _has_absurd_figure(value: object) -> bool:
    """True where a whole number is so long that printing it may fail."""
    if isinstance(value, dict):
        return any(map(_has_absurd_figure, value.values()))
    if isinstance(value, list):
        return any(map(_has_absurd_figure, value))
    return isinstance(value, int) and abs(value) >= 10**_MAX_DIGITS


def _negative_figure(value: object, name: str = "") -> str:
    """Describe a count, a size or an amount below zero in a record; empty where there is none."""
    if isinstance(value, tuple):
        return next(filter(None, (_negative_figure(item, name) for item in value)), "")
    if is_dataclass(value):
        parts = (_negative_figure(getattr(value, field.name), field.name) for field in fields(value))
        return next(filter(None, parts), "")
    below = isinstance(value, int) and value < 0 and name != "seed"
    return f"`{name}` is {value}" if below else ""

"""Results of earlier schemas, brought to the fields of today's when they are read."""

from __future__ import annotations

from typing import Any

FIRST_SCHEMA = "autobatch/1"
# Fields that schema 2 renamed: the record that has them (empty: the answer itself), old name, new name.
_RENAMED = (
    ("", "present", "current"),
    ("device", "holders", "memory_users"),
    ("loader", "lifts", "sufficient_workers"),
)


def migrate_first(document: dict[str, Any]) -> dict[str, Any]:
    """Return an answer of schema 1 with today's fields, marked as one that can't be decided again."""
    migrated = {**document, "decidable": False}
    for record, old, new in _RENAMED:
        values = migrated if not record else migrated.get(record)
        if isinstance(values, dict) and old in values:
            renamed = {new if name == old else name: value for name, value in values.items()}
            migrated = renamed if not record else {**migrated, record: renamed}
    check = migrated.get("check")
    if isinstance(check, dict) and "candidates" in check:
        # They are derived from the check, so they left it for the answer.
        migrated["candidates"] = check["candidates"]
    return migrated

"""Settings outside the command line: `AUTOBATCH_*` variables and `[tool.autobatch]` in `pyproject.toml`.

The command line goes before the variables, these before the file. Only the command line reads them, so a call
of the library depends on its arguments alone.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from autobatch.records.errors import UsageError
from autobatch.records.escaping import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "pyproject.toml"
TABLE = "[tool.autobatch]"
PREFIX = "AUTOBATCH_"
# A name is taken for a misspelt setting from this similarity on (difflib's ratio, 0 to 1).
_SIMILAR = 0.8


def variable_of(setting: str) -> str:
    """Return the variable of a setting: AUTOBATCH_MAX_BATCH for `max-batch`."""
    return PREFIX + setting.replace("-", "_").upper()


def read_file(folder: Path, settings: Collection[str]) -> dict[str, str]:
    """Return the table of the folder's file, its values as on the command line; empty without one.

    Raises UsageError for a file that can't be read, a key that is none of the `settings`, and a value that no
    setting has.
    """
    path = folder / FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        facts = (printable(str(error)),)
        raise UsageError(f"`{FILE}` can't be read", code="bad_configuration", facts=facts) from error
    table = document.get("tool", {}).get("autobatch", {}) if isinstance(document.get("tool"), dict) else {}
    if not isinstance(table, dict):
        raise _wrong_value("autobatch", table)
    for key in table:
        if key not in settings:
            raise UsageError(
                f"`{printable(key)}` is no setting of autobatch",
                code="bad_configuration",
                facts=(place_in_file(key),),
                hint=_closest(key, settings) or f"settings are {', '.join(f'`{name}`' for name in settings)}",
            )
    return {key: _plain(key, value) for key, value in table.items()}


def check_variables(environment: Mapping[str, str], settings: Collection[str]) -> None:
    """Raise UsageError for a variable whose name is nearly that of a setting."""
    words = {variable_of(setting).removeprefix(PREFIX) for setting in settings}
    for name in environment:
        word = name.removeprefix(PREFIX)
        # Variables for other purposes have the prefix too.
        if not name.startswith(PREFIX) or word in words:
            continue
        if close := get_close_matches(word, words, n=1, cutoff=_SIMILAR):
            raise UsageError(
                f"`{printable(name)}` is no setting of autobatch",
                code="bad_configuration",
                hint=f"did you mean `{PREFIX}{close[0]}`?",
            )


def place_in_file(key: str) -> str:
    """Name the place of a key, as a fact of an error."""
    return f"`{printable(key)}` in {TABLE} of `{FILE}`"


def _closest(key: str, settings: Collection[str]) -> str:
    close = get_close_matches(key.replace("_", "-"), settings, n=1, cutoff=_SIMILAR)
    return f"did you mean `{close[0]}`?" if close else ""


def _plain(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise _wrong_value(key, value)


def _wrong_value(key: str, value: Any) -> UsageError:
    return UsageError(
        f"`{printable(key)}` can't be a {'list' if isinstance(value, list) else type(value).__name__}",
        code="bad_configuration",
        facts=(place_in_file(key),),
        hint="write it as on the command line: a text, a number, or true",
    )

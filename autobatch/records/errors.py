"""Errors that a user can act on: what happened, the facts, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autobatch.records.escaping import printable


class AutobatchError(Exception):
    """A problem that the user has to repair, in the user's terms.

    `message` is one sentence that names the thing, `facts` are short lines of evidence,
    `hint` says what to do next, and `code` is a stable word for programs. `trials` holds what was
    measured before it. Subclasses differ only in the exit status that the command line gives them.
    """

    exit_status = 1
    # Trials of autobatch.records, which itself raises these errors.
    trials: tuple[Any, ...] = ()

    def __init__(self, message: str, *, code: str, facts: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.facts = tuple(facts)
        self.hint = hint

    def __str__(self) -> str:
        # Python prints this for an error that nobody catches, so it is as harmless as a report.
        facts = [line for fact in self.facts for line in fact.splitlines()]
        lines = [" ".join(self.message.splitlines()), *(f"  {line}" for line in facts)]
        if self.hint:
            lines += ["", f"hint: {' '.join(self.hint.splitlines())}"]
        return "\n".join(map(printable, lines))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.code, self.facts, self.hint)


class UsageError(AutobatchError, ValueError):
    """The call itself is wrong: an option, an argument or a target that can't be meant."""

    exit_status = 2


class TargetError(AutobatchError):
    """The model file, its data set, its loss or its optimizer can't be used as it stands."""


class DeviceError(AutobatchError):
    """The device isn't there, is lost, or can't hold even the smallest batch."""


class SavedResultError(AutobatchError):
    """A saved result can't be read or written."""


def message_of(error: BaseException) -> str:
    """The text of an exception of the user's code; a remark where making the text raises another."""
    try:
        return str(error)
    except Exception as second:
        return f"(its text can't be had: {type(second).__name__})"


def missing_file(path: Path) -> TargetError:
    """The error for a target file that isn't there, with what lies beside it."""
    folder = path if path.is_dir() else path.parent
    beside = [f"`{file}`" for file in sorted(folder.glob("*.py"))[:5]]
    if beside:
        facts = f"Python files there: {', '.join(beside)}"
    else:
        facts = f"no Python file lies in `{folder}`" if folder.is_dir() else f"there is no folder `{folder}`"
    return TargetError(
        f"`{path}` is a folder, not a file" if path.is_dir() else f"`{path}` does not exist",
        code="no_file",
        facts=(facts,),
        hint="check the path, or give a module, such as `pkg.module:model`",
    )


def ranks_differ(facts: tuple[str, ...]) -> TargetError:
    """The error for ranks that can't train together; `facts` say what two of them have."""
    return TargetError(
        "the ranks don't train the same thing",
        code="ranks_differ",
        facts=facts,
        hint="give every rank the same model file, or the same arguments",
    )


def not_decidable() -> SavedResultError:
    """Return the error for a result of an earlier schema that is to be decided again."""
    return SavedResultError(
        "a result of an earlier version can be shown, but not decided again",
        code="not_decidable",
        facts=("it lacks measurements that a decision needs today",),
        hint="probe again with `--save`",
    )


def _rebuild(
    kind: type[AutobatchError], message: str, code: str, facts: tuple[str, ...], hint: str
) -> AutobatchError:
    return kind(message, code=code, facts=facts, hint=hint)

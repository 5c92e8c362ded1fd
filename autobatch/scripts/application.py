"""How to apply an answer to a script: the command, or the line of code, with another batch size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autobatch.records.recommendation import Recommendation
from autobatch.scripts.command import Command
from autobatch.scripts.knob import Knob, KnobKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """`command` trains with the answer. `change` of the code is needed as well where it is not None.

    `change` is (file, line, text). `learning_rate`: (the flag with its value, or an empty text; the rate).
    """

    command: Command
    change: tuple[str, int, str] | None
    learning_rate: float | None
    rate_flags: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The application as text, one fact a line."""
        lines = []
        if self.change is None:
            lines.append(f"run: {self.command.text}")
        else:
            file, line, text = self.change
            lines.append(f"change {file}:{line}: {text}")
        if self.learning_rate is not None and not self.rate_flags:
            lines.append(f"learning rate: {self.learning_rate:.3g}, unless the script derives it by itself")
        return tuple(lines)


def application(
    command: Command, knob: Knob, unit: int, rate_flags: tuple[str, ...], answer: Recommendation
) -> Application:
    """How to train with `answer`, whose size is that of `unit` micro batches.

    The learning rate is part of the command where a flag of it was seen and the answer has another one.
    """
    micro = answer.batch_size // unit
    changed = micro != knob.current
    applied = knob.applied(command, micro)
    rate = answer.learning_rate if changed else None
    if rate is not None and rate_flags:
        applied = applied.with_flag(rate_flags, f"{rate:.3g}")
    change = None
    if changed and knob.kind is KnobKind.LOADER and knob.place is not None:
        text = f"batch_size={micro} in place of {knob.current}"
        change = (_shown(knob.place.file), knob.place.line, text)
    return Application(command=applied, change=change, learning_rate=rate, rate_flags=rate_flags)


def _shown(file: str) -> str:
    """A path as the user would type it in this folder."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file

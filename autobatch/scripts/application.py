"""How to apply an answer to a script: the command, or the line of code, with another batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autobatch.records.recommendation import Recommendation
from autobatch.scripts.command import Command
from autobatch.scripts.knob import Knob, KnobKind, with_split
from autobatch.scripts.splits import FasterSplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """`command` trains with the answer. `change` of the code is needed as well where it is not None.

    `change` is (file, line, text), and `in_code` the same change for a process that makes it by itself.
    `learning_rate`: None where it stays. `rate_flags`: those in the command; empty where none sets it.
    `note`: the reason to prefer it.
    """

    command: Command
    change: tuple[str, int, str] | None = None
    in_code: Mapping[str, object] | None = None
    learning_rate: float | None = None
    rate_flags: tuple[str, ...] = ()
    note: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The application as text, one fact a line."""
        note = f"  ({self.note})" if self.note else ""
        lines = []
        if self.change is not None:
            file, line, text = self.change
            lines.append(f"change {file}:{line}: {text}{note}")
        else:
            lines.append(f"run: {self.command.text}{note}")
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
    applied = knob.applied(command, micro)
    rate = answer.learning_rate if micro != knob.current else None
    if rate is not None and rate_flags:
        applied = applied.with_flag(rate_flags, f"{rate:.3g}")
    return Application(
        command=applied,
        change=_change(knob, micro),
        in_code=knob.in_code(micro),
        learning_rate=rate,
        rate_flags=rate_flags,
    )


def split_application(
    command: Command, knob: Knob, steps_flags: Sequence[str], faster: FasterSplit
) -> Application:
    """How to train with the script's own batch size in other micro batches. Nothing else changes."""
    split = faster.split
    applied = with_split(command, knob, steps_flags, split)
    change = _change(knob, split.micro_batch)
    note = f"the same {split.batch_size:,} samples a step, {faster.speedup:.2f}x as fast"
    if change is not None:
        file, line, text = change
        change = file, line, f"{text}, and run {applied.text}"
    return Application(command=applied, change=change, in_code=knob.in_code(split.micro_batch), note=note)


def _change(knob: Knob, micro: int) -> tuple[str, int, str] | None:
    """The (file, line, text) of a loader that gets another size; None where the command says it all."""
    if micro == knob.current or knob.kind is not KnobKind.LOADER or knob.place is None:
        return None
    return _shown(knob.place.file), knob.place.line, f"{knob.setting}={micro} in place of {knob.current}"


def _shown(file: str) -> str:
    """A path as the user would type it in this folder."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file

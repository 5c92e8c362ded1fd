"""The user's command: its words, its variables, its placeholder, and its flags with other values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autobatch.records.errors import UsageError

PLACEHOLDER = "{batch_size}"
# `{batch_size}`, or with the current size: `{batch_size=64}`.
_PLACEHOLDER = re.compile(r"\{batch_size(?:=(\d+))?\}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`words` to execute, with `variables` (NAME=VALUE words before them) in the environment."""

    words: tuple[str, ...]
    variables: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As it is typed in a shell."""
        return " ".join([*self.variables, shlex.join(self.words)])

    @property
    def has_placeholder(self) -> bool:
        return any(_PLACEHOLDER.search(word) for word in (*self.variables, *self.words))

    @property
    def placeholder_size(self) -> int | None:
        """The size that a placeholder names as the current one; None where it names none."""
        named = (_PLACEHOLDER.search(word) for word in (*self.variables, *self.words))
        return next((int(match[1]) for match in named if match and match[1]), None)

    @property
    def environment(self) -> dict[str, str]:
        return dict(variable.split("=", 1) for variable in self.variables)

    def filled(self, batch_size: int) -> Command:
        """The command with the batch size in the place of every placeholder."""
        variables, words = (
            tuple(_PLACEHOLDER.sub(str(batch_size), word) for word in part)
            for part in (self.variables, self.words)
        )
        return Command(words=words, variables=variables)

    def with_flag(self, flags: Sequence[str], value: str) -> Command:
        """The command with another value of a flag: where it stands, else at the end.

        `flags`: its spellings, the longest first. One without a dash is a setting: `name=value`.
        """
        words = list(self.words)
        for place, word in reversed(list(enumerate(words))):
            name, equals, _ = word.partition("=")
            if equals and name.lstrip("+") in flags:
                words[place] = f"{name}={value}"
                return replace(self, words=tuple(words))
            if word in flags and word.startswith("-") and place + 1 < len(words):
                words[place + 1] = value
                return replace(self, words=tuple(words))
        is_setting = not flags[0].startswith("-")
        words += [f"{flags[0]}={value}"] if is_setting else [flags[0], value]
        return replace(self, words=tuple(words))

    def mentions(self, flags: Sequence[str]) -> bool:
        """True where a spelling of the flag stands in the command."""
        names = {word.partition("=")[0].lstrip("+") for word in self.words}
        return not names.isdisjoint(flags)


def parse(arguments: Sequence[str]) -> Command:
    """The command of the words after `--`. Raises UsageError where there is none."""
    words = list(arguments)
    variables: list[str] = []
    while words and _VARIABLE.fullmatch(words[0]):
        variables.append(words.pop(0))
    if not words:
        raise UsageError(
            "no command stands after `--`",
            code="usage",
            hint="write it as you would run it: `autobatch probe -- python train.py --epochs 3`",
        )
    return Command(words=tuple(words), variables=tuple(variables))

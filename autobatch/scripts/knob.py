"""Pure: where a script takes its batch size from, found by the size that was observed.

A knob is a placeholder in the command, a flag or setting, or the place of the DataLoader in the code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autobatch.records.str_enum import StrEnum
from autobatch.scripts.command import Command
from autobatch.scripts.messages import LoaderPlace, Observation, Sighting

_BATCH = re.compile(r"batch|(^|[._-])(bs|bsz|b)($|[._-])", re.IGNORECASE)
_NOT_TRAINING = re.compile(
    r"(^|[._-])(test|val|valid|validation|eval|predict|n|num|max|log)($|[._-])", re.IGNORECASE
)
_EPOCHS = re.compile(r"(^|\.)((num|max|n|train)_?(train_)?)?epochs?$", re.IGNORECASE)
_STEPS = re.compile(r"(^|\.)(max|num|n|total|train)_?(train(ing)?_)?(steps|iters|iterations)$", re.IGNORECASE)
_ACCUMULATION = re.compile(r"accum", re.IGNORECASE)
_WORD = re.compile(r"(?P<name>-{0,2}[A-Za-z][\w.-]*)=(?P<value>\d+)")


class KnobKind(StrEnum):
    """The thing to change for another batch size."""

    PLACEHOLDER = "placeholder"
    FLAG = "flag"
    LOADER = "loader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One way to set the batch size. `flags` of a flag, `place` of a loader.

    `setting`: the name of the size in the code, as far as a variable was seen. `multiple`: a flag of a global
    batch size takes this many times the size of one batch.
    """

    kind: KnobKind
    current: int
    flags: tuple[str, ...] = ()
    multiple: int = 1
    place: LoaderPlace | None = None
    setting: str = "batch_size"

    @property
    def name(self) -> str:
        """How it is called in messages."""
        if self.kind is KnobKind.LOADER and self.place is not None:
            return f"the DataLoader at {self.place.file}:{self.place.line}"
        return "the placeholder" if self.kind is KnobKind.PLACEHOLDER else f"`{self.flags[0]}`"

    def applied(self, command: Command, batch_size: int) -> Command:
        """The command that trains with `batch_size`; the same where the knob stands in the code."""
        if self.kind is KnobKind.PLACEHOLDER:
            return command.filled(batch_size * self.multiple)
        if self.kind is KnobKind.FLAG and batch_size != self.current:
            return command.with_flag(self.flags, str(batch_size * self.multiple))
        return command

    def in_code(self, batch_size: int) -> dict[str, object] | None:
        """What a started process has to change in the code; None where the command says it all."""
        if self.kind is not KnobKind.LOADER or self.place is None or batch_size == self.current:
            return None
        return {
            "file": self.place.file,
            "line": self.place.line,
            "current": self.current,
            "batch_size": batch_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A step's samples as `steps` micro batches."""

    micro_batch: int
    steps: int

    @property
    def batch_size(self) -> int:
        return self.micro_batch * self.steps


def names_batch_size(name: str) -> bool:
    """True for a name that a batch size may have."""
    return _BATCH.search(name) is not None


def find_knobs(command: Command, observed: Observation, filled: int | None = None) -> tuple[Knob, ...]:
    """The knobs that would explain the observed size, the likeliest first; empty where none does.

    `filled`: the size that stood in the place of the command's placeholder.
    """
    if command.has_placeholder:
        multiple = None if filled is None else multiple_of(filled, observed)
        if filled is None or multiple is None:
            return ()
        return (Knob(kind=KnobKind.PLACEHOLDER, current=filled // multiple, multiple=multiple),)
    knobs = list(_flags(command, observed))
    loader, size = observed.loader, observed.batch_size
    if loader is not None and size is not None and loader.movable:
        setting = _setting(observed, size)
        knobs.append(Knob(kind=KnobKind.LOADER, current=size, place=loader, setting=setting))
    return tuple(knobs)


def _setting(observed: Observation, size: int) -> str:
    """The name of a variable that holds the size; that of the loader's argument where none was seen."""
    names = (sighting.name for sighting in observed.sightings if sighting.value == size)
    likely = (name for name in names if names_batch_size(name) and not _NOT_TRAINING.search(name))
    return next(likely, "batch_size")


def find_steps_flags(command: Command, observed: Observation) -> tuple[str, ...]:
    """The flag of the accumulation steps, by its name and its value; empty where there is none."""
    if observed.micro_batches == 1:
        return ()
    for sighting in [*observed.sightings, *_of_words(command)]:
        is_named = sighting.flags and _ACCUMULATION.search(sighting.name)
        if is_named and sighting.value == observed.micro_batches:
            return tuple(sighting.flags)
    return ()


def with_split(command: Command, knob: Knob, steps_flags: Sequence[str], split: Split) -> Command:
    """The command with both knobs of a split set, as far as the command sets them."""
    return knob.applied(command, split.micro_batch).with_flag(steps_flags, str(split.steps))


def multiple_of(value: float, observed: Observation) -> int | None:
    """How many batches a setting's value makes up; None where it has nothing to do with the observed size."""
    size = observed.batch_size
    if observed.loader is None:
        # The first dimension of an input is not always the batch.
        return 1 if value in observed.shape else None
    multiples = sorted({1, observed.world_size, observed.micro_batches})
    return next((m for m in multiples if size is not None and value == size * m), None)


def epochs_of(command: Command, observed: Observation, batch_size: int) -> float | None:
    """How many epochs the script trains for, by its flags; None where none says."""
    sightings = [*observed.sightings, *_of_words(command)]
    for sighting in sightings:
        if _EPOCHS.search(sighting.name) and sighting.value > 0:
            return float(sighting.value)
    size = observed.loader.dataset_size if observed.loader is not None else None
    for sighting in sightings:
        if _STEPS.search(sighting.name) and sighting.value > 0 and size:
            samples = batch_size * observed.micro_batches * observed.world_size
            return sighting.value * samples / size
    return None


def rate_flags(observed: Observation) -> tuple[str, ...]:
    """The flags of the learning rate; empty where none has the observed rate."""
    for sighting in observed.sightings:
        name = sighting.name.rpartition(".")[2].lower()
        if name in ("lr", "learning_rate") and sighting.value == observed.learning_rate:
            return tuple(sighting.flags)
    return ()


def _flags(command: Command, observed: Observation) -> list[Knob]:
    """Flags whose value is the observed size, or that of all micro batches or ranks together."""
    sightings = [*observed.sightings, *_of_words(command)]
    named = [
        s for s in sightings if s.flags and names_batch_size(s.name) and not _NOT_TRAINING.search(s.name)
    ]
    ranked: list[tuple[tuple[bool, int, int], Knob]] = []
    for sighting in named:
        multiple = multiple_of(sighting.value, observed)
        if multiple is not None:
            size = int(sighting.value) // multiple
            knob = Knob(kind=KnobKind.FLAG, current=size, flags=tuple(sighting.flags), multiple=multiple)
            unlikely = (not command.mentions(sighting.flags), multiple, len(sighting.name))
            ranked.append((unlikely, knob))
    unique: dict[tuple[str, ...], Knob] = {}
    for _, knob in sorted(ranked, key=lambda pair: pair[0]):
        unique.setdefault(knob.flags, knob)
    return list(unique.values())


def _of_words(command: Command) -> Sequence[Sighting]:
    """Words of the command such as `--batch_size=12` or `train.bs=64`, which no parser was seen to read."""
    sightings = []
    for word in command.words:
        match = _WORD.fullmatch(word)
        if match:
            name = match["name"]
            sightings.append(
                Sighting(source="command", name=name.lstrip("-"), flags=[name], value=int(match["value"]))
            )
    for flag, value in zip(command.words, command.words[1:], strict=False):
        if flag.startswith("-") and "=" not in flag and value.isdigit():
            name = flag.lstrip("-")
            sightings.append(Sighting(source="command", name=name, flags=[flag], value=int(value)))
    return sightings

"""Pure: the births and deaths of storages in a step, and the peak that follows from them at any batch size.

Every storage of a step is a straight line of the batch size, a + b B bytes, where two traces at different
sizes have the same structure. The peak is the largest of the sums alive at any moment, so it is only
piecewise straight: the upper envelope of these sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from autobatch.records.trial import MemoryLine


class Kind(StrEnum):
    """What a storage is for. Buffers count as parameters, batches as activations.

    `workspace`: what an optimizer's step makes and drops again.
    """

    PARAMETER = "parameter"
    GRADIENT = "gradient"
    OPTIMIZER = "optimizer"
    ACTIVATION = "activation"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True)
class Birth:
    """A storage of `size_bytes` comes to be; `storage` counts them in their order."""

    storage: int
    size_bytes: int
    kind: Kind = Kind.ACTIVATION


@dataclass(frozen=True, slots=True)
class Death:
    """A storage is given back."""

    storage: int


Event = Birth | Death


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A storage of a step at any batch size B: fixed_bytes + sample_bytes x B.

    `born` and `died` count the events of the step; `died` is None where it outlives the step.
    """

    born: int
    died: int | None
    fixed_bytes: float
    sample_bytes: float
    kind: Kind

    def size_bytes(self, batch_size: int) -> int:
        return max(0, round(self.fixed_bytes + self.sample_bytes * batch_size))


def ordered(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events with each run of deaths in the order of their storages.

    Within one operation the order of deaths carries no information, and may differ from trace to trace.
    """
    found: list[Event] = []
    run: list[Death] = []
    for event in events:
        if isinstance(event, Death):
            run.append(event)
            continue
        found += [*sorted(run, key=lambda death: death.storage), event]
        run = []
    return (*found, *sorted(run, key=lambda death: death.storage))


def peak_bytes(events: Sequence[Event]) -> int:
    """The most that was alive at once."""
    alive: dict[int, int] = {}
    now = peak = 0
    for event in events:
        if isinstance(event, Birth):
            alive[event.storage] = event.size_bytes
            now += event.size_bytes
            peak = max(peak, now)
        else:
            now -= alive.pop(event.storage)
    return peak


def align(
    first: Sequence[Event], first_size: int, second: Sequence[Event], second_size: int
) -> tuple[Lifetime, ...] | None:
    """The storages of a step at any batch size, by their birth, from traces at two.

    None where the two differ in structure: then the step is another one at another size, and no line
    through two sizes says anything about a third.
    """
    if len(first) != len(second):
        return None
    born: dict[int, Lifetime] = {}
    for moment, (one, other) in enumerate(zip(first, second, strict=True)):
        if type(one) is not type(other) or one.storage != other.storage:
            return None
        if isinstance(one, Birth) and isinstance(other, Birth):
            slope = (other.size_bytes - one.size_bytes) / (second_size - first_size)
            fixed = one.size_bytes - slope * first_size
            born[one.storage] = Lifetime(moment, None, fixed, slope, one.kind)
        else:
            born[one.storage] = replace(born[one.storage], died=moment)
    return tuple(born.values())


def events_at(lifetimes: Sequence[Lifetime], batch_size: int) -> tuple[Event, ...]:
    """The step at one batch size, as if it had been traced there."""
    moments: list[tuple[int, Event]] = []
    for storage, one in enumerate(lifetimes):
        moments.append((one.born, Birth(storage, one.size_bytes(batch_size), one.kind)))
        if one.died is not None:
            moments.append((one.died, Death(storage)))
    return tuple(event for _, event in sorted(moments, key=lambda pair: pair[0]))


def lines_of(lifetimes: Sequence[Lifetime], smallest: float = 1.0) -> tuple[MemoryLine, ...]:
    """The peak as the highest of a few lines; it holds from `smallest` on."""
    sums: set[tuple[float, float]] = set()
    fixed = sample = 0.0
    for event in events_at(lifetimes, 1):
        one = lifetimes[event.storage]
        if isinstance(event, Birth):
            fixed, sample = fixed + one.fixed_bytes, sample + one.sample_bytes
            sums.add((fixed, sample))
        else:
            fixed, sample = fixed - one.fixed_bytes, sample - one.sample_bytes
    return envelope((MemoryLine(fixed_bytes=a, sample_bytes=b) for a, b in sums), smallest)


def envelope(lines: Iterable[MemoryLine], smallest: float = 1.0) -> tuple[MemoryLine, ...]:
    """The lines that are the highest at some batch size of `smallest` or more, by rising slope."""
    hull: list[MemoryLine] = []
    for line in sorted(lines, key=lambda one: (one.sample_bytes, one.fixed_bytes)):
        if hull and line.at(smallest) >= hull[-1].at(smallest):
            hull = [one for one in hull if one.at(smallest) > line.at(smallest)]
        while len(hull) > 1 and _meet(hull[-2], line) <= _meet(hull[-2], hull[-1]):
            hull.pop()
        hull.append(line)
    return tuple(hull)


def _meet(lower: MemoryLine, steeper: MemoryLine) -> float:
    """The batch size at which the steeper line comes to be the higher one."""
    rise = steeper.sample_bytes - lower.sample_bytes
    return (lower.fixed_bytes - steeper.fixed_bytes) / rise if rise > 0 else float("-inf")

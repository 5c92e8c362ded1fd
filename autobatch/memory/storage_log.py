"""Pure: the births and deaths of storages in a step, and the peak memory at any batch size B.

Where two traces at different sizes have the same structure, every storage takes a + b B bytes. The peak is
the largest sum of the living storages at any moment. So it is piecewise linear in B: the upper envelope of
these sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from autobatch.records.str_enum import StrEnum
from autobatch.records.trial import MemoryLine


class Kind(StrEnum):
    """The purpose of a storage. Buffers count as parameters, batches as activations.

    `workspace`: temporary storages of an optimizer's step.
    """

    PARAMETER = "parameter"
    GRADIENT = "gradient"
    OPTIMIZER = "optimizer"
    ACTIVATION = "activation"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True)
class Birth:
    """A storage of `size_bytes` is allocated; `storage` numbers them in their order."""

    storage: int
    size_bytes: int
    kind: Kind = Kind.ACTIVATION


@dataclass(frozen=True, slots=True)
class Death:
    """A storage is freed."""

    storage: int


Event = Birth | Death


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A storage of a step at any batch size B: fixed_bytes + sample_bytes x B.

    `born` and `died` are indices of the step's events; `died` is None where the storage outlives the step.
    """

    born: int
    died: int | None
    fixed_bytes: float
    sample_bytes: float
    kind: Kind

    def size_bytes(self, batch_size: int) -> int:
        return max(0, round(self.fixed_bytes + self.sample_bytes * batch_size))


def order_deaths(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events, with consecutive deaths in the order of their storages.

    Within an operation the order of deaths carries no information, and may differ from trace to trace.
    """
    ordered: list[Event] = []
    deaths: list[Death] = []
    for event in events:
        if isinstance(event, Death):
            deaths.append(event)
            continue
        ordered += [*sorted(deaths, key=lambda death: death.storage), event]
        deaths = []
    return (*ordered, *sorted(deaths, key=lambda death: death.storage))


def peak_bytes(events: Sequence[Event]) -> int:
    """The largest sum of bytes that were alive at the same time."""
    alive: dict[int, int] = {}
    current_bytes = peak = 0
    for event in events:
        if isinstance(event, Birth):
            alive[event.storage] = event.size_bytes
            current_bytes += event.size_bytes
            peak = max(peak, current_bytes)
        else:
            current_bytes -= alive.pop(event.storage)
    return peak


def align(
    first: Sequence[Event], first_size: int, second: Sequence[Event], second_size: int
) -> tuple[Lifetime, ...] | None:
    """The storages of a step at any batch size, in the order of their births, from traces at two sizes.

    None where the traces differ in structure: the step then changes with the batch size, and a line through
    two sizes says nothing about a third.
    """
    if len(first) != len(second):
        return None
    born: dict[int, Lifetime] = {}
    for moment, (event, counterpart) in enumerate(zip(first, second, strict=True)):
        if type(event) is not type(counterpart) or event.storage != counterpart.storage:
            return None
        if isinstance(event, Birth) and isinstance(counterpart, Birth):
            slope = (counterpart.size_bytes - event.size_bytes) / (second_size - first_size)
            fixed = event.size_bytes - slope * first_size
            born[event.storage] = Lifetime(moment, None, fixed, slope, event.kind)
        else:
            born[event.storage] = replace(born[event.storage], died=moment)
    return tuple(born.values())


def events_at(lifetimes: Sequence[Lifetime], batch_size: int) -> tuple[Event, ...]:
    """The events of the step at a batch size, as a trace at that size would log them."""
    moments: list[tuple[int, Event]] = []
    for storage, lifetime in enumerate(lifetimes):
        moments.append((lifetime.born, Birth(storage, lifetime.size_bytes(batch_size), lifetime.kind)))
        if lifetime.died is not None:
            moments.append((lifetime.died, Death(storage)))
    return tuple(event for _, event in sorted(moments, key=lambda pair: pair[0]))


def lines_of(lifetimes: Sequence[Lifetime], smallest: float = 1.0) -> tuple[MemoryLine, ...]:
    """The peak as the maximum of a few lines, valid from batch size `smallest` on."""
    sums: set[tuple[float, float]] = set()
    fixed = sample = 0.0
    for event in events_at(lifetimes, 1):
        lifetime = lifetimes[event.storage]
        if isinstance(event, Birth):
            fixed, sample = fixed + lifetime.fixed_bytes, sample + lifetime.sample_bytes
            sums.add((fixed, sample))
        else:
            fixed, sample = fixed - lifetime.fixed_bytes, sample - lifetime.sample_bytes
    return envelope((MemoryLine(fixed_bytes=a, sample_bytes=b) for a, b in sums), smallest)


def envelope(lines: Iterable[MemoryLine], smallest: float = 1.0) -> tuple[MemoryLine, ...]:
    """The lines that are highest at some batch size from `smallest` on, by ascending slope."""
    hull: list[MemoryLine] = []
    for line in sorted(lines, key=lambda line: (line.sample_bytes, line.fixed_bytes)):
        if hull and line.at(smallest) >= hull[-1].at(smallest):
            hull = [lower for lower in hull if lower.at(smallest) > line.at(smallest)]
        while len(hull) > 1 and _crossing(hull[-2], line) <= _crossing(hull[-2], hull[-1]):
            hull.pop()
        hull.append(line)
    return tuple(hull)


def _crossing(lower: MemoryLine, steeper: MemoryLine) -> float:
    """The batch size from which the steeper line is the higher."""
    rise = steeper.sample_bytes - lower.sample_bytes
    return (lower.fixed_bytes - steeper.fixed_bytes) / rise if rise > 0 else float("-inf")

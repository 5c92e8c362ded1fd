"""Pure: the births and deaths of storages in a step, and the peak that follows from them at any batch size.

Every storage of a step is a straight line of the batch size, a + b B bytes, where two traces at different
sizes have the same structure. The peak is the largest of the sums alive at any moment, so it is only
piecewise straight: the upper envelope of these sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autobatch.records import MemoryLine


@dataclass(frozen=True, slots=True)
class Birth:
    """A storage of `size_bytes` comes to be; `storage` counts them in their order."""

    storage: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Death:
    """A storage is given back."""

    storage: int


Event = Birth | Death


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


def lines_of(
    first: Sequence[Event],
    first_size: int,
    second: Sequence[Event],
    second_size: int,
    smallest: float = 1.0,
) -> tuple[MemoryLine, ...] | None:
    """The peak as the largest of a few lines, from traces at two batch sizes; it holds from `smallest` on.

    None where the two differ in structure: then the step is another one at another size, and no line
    through two sizes says anything about a third.
    """
    if len(first) != len(second):
        return None
    sums: set[tuple[float, float]] = set()
    alive: dict[int, tuple[float, float]] = {}
    fixed = sample = 0.0
    for one, other in zip(first, second, strict=True):
        if type(one) is not type(other) or one.storage != other.storage:
            return None
        if isinstance(one, Birth) and isinstance(other, Birth):
            slope = (other.size_bytes - one.size_bytes) / (second_size - first_size)
            alive[one.storage] = (one.size_bytes - slope * first_size, slope)
            fixed, sample = fixed + alive[one.storage][0], sample + slope
            sums.add((fixed, sample))
        else:
            gone = alive.pop(one.storage)
            fixed, sample = fixed - gone[0], sample - gone[1]
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

"""Pure: the search for the largest size at which every one of so many fresh processes survives."""

from __future__ import annotations

from collections.abc import Callable

# survives(size, of): whether `of` of `of` processes survived a size; it stops at the first that dies.
Survives = Callable[[int, int], bool]

RESOLUTION = 0.01
# So many sizes in a row above a ceiling have to fail before it is one.
SCAN_ABOVE = 3
FIRST_GUESS, FIRST_FACTOR = 64, 2.0
# A later repetition starts from the ceiling of the one before.
LATER_FACTOR = 1.05


def find_ceiling(survives: Survives, of: int, before: int | None = None) -> int:
    """The ceiling to a resolution of 1%; 0 where no size survives.

    A bracket and a bisection ask one process a size, which is often lucky or unlucky near the ceiling. So
    the sizes around what they find are asked for `of` processes, first downwards, then upwards.
    """
    low = _bracketed(survives, before)
    while low >= 1 and not survives(low, of):
        low -= _step(low)
    failures = 0
    candidate = low
    while low >= 1 and failures < SCAN_ABOVE:
        candidate += _step(candidate)
        if survives(candidate, of):
            low, failures = candidate, 0
        else:
            failures += 1
    return max(low, 0)


def _bracketed(survives: Survives, before: int | None) -> int:
    """A size at which one process survived, with one of 1% more at which one died."""
    factor = FIRST_FACTOR if before is None else LATER_FACTOR
    low, high = 0, before or FIRST_GUESS
    while survives(high, 1):
        low, high = high, max(high + 1, round(high * factor))
    while low == 0 and high > 1:
        candidate = min(high - 1, round(high / factor))
        if survives(candidate, 1):
            low = candidate
        else:
            high = candidate
    while high - low > _step(low):
        candidate = (low + high) // 2
        if survives(candidate, 1):
            low = candidate
        else:
            high = candidate
    return low


def _step(size: int) -> int:
    return max(1, int(RESOLUTION * size))

"""Pure: the sizes that a search may try at all: its first, its last, and those beside the climb."""

from __future__ import annotations

import sys
from itertools import islice
from math import gcd

from autobatch.decision.constants import USUAL_BATCH_SIZE
from autobatch.decision.trial_set import TrialSet
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import LimitedBy, Outcome, Trial


def size_cap(limits: Limits, dataset_size: int | None) -> tuple[int, LimitedBy]:
    """The largest size that may be tried at all (a multiple of the unit), and the limit that sets it."""
    # Indices of a data set are machine words.
    caps = [(sys.maxsize, LimitedBy.SIZE_LIMIT)]
    if dataset_size is not None:
        caps.append((dataset_size, LimitedBy.DATASET))
    caps += [(cap, LimitedBy.MAX_BATCH) for cap in (limits.max_batch, limits.global_batch) if cap is not None]
    cap, reason = min(caps, key=lambda pair: pair[0])
    return limits.rounded_down(cap), reason


def current_or_usual(limits: Limits, cap: int, current_size: int | None) -> int:
    """The permitted size nearest to the current one, which the usual one stands for where it is unknown."""
    return limits.nearest(min(current_size or USUAL_BATCH_SIZE, cap))


def climbs_past_plateau(limits: Limits) -> bool:
    """True where the answer needs the memory ceiling itself, not only the end of the gain."""
    return limits.ceiling or limits.objective is Objective.MEMORY or limits.global_batch is not None


def next_doubling(size: int, limits: Limits, cap: int) -> int:
    """Twice the size, as far as the cap allows."""
    return min(limits.rounded_up(2 * size), cap)


def extra_sizes(
    trial_set: TrialSet, limits: Limits, current_size: int | None, ceiling: int
) -> tuple[int, ...]:
    """Sizes that the answer needs beside the climb: the current one, and a divisor of the global batch.

    Only sizes up to the ceiling that were not tried yet.
    """
    wanted = [current_size, largest_divisor(limits.global_batch, ceiling, limits)]
    untried = {size for size in wanted if size and size <= ceiling} - set(trial_set.latest)
    return tuple(sorted(filter(limits.permits, untried)))


def smaller_sizes(trial_set: TrialSet, limits: Limits) -> tuple[int, ...]:
    """Doublings of the smallest size, below all that passed and above the floor, the largest first.

    A climb that began at the current size has left them out.
    """
    if not trial_set.passed or limits.objective is Objective.MEMORY:
        return ()
    lowest = trial_set.passed[0].batch_size
    floor = max((size for size in trial_set.latest if size < lowest), default=0)
    sizes, size = [], limits.smallest
    while size < lowest:
        if size > floor:
            sizes.append(size)
        size = limits.rounded_up(2 * size)
    return tuple(reversed(sizes))


def sizes_beyond_errors(trial_set: TrialSet, limits: Limits, cap: int) -> tuple[int, ...]:
    """Sizes that tell whether small or large sizes fail, or sizes that are no multiple.

    They lie beyond an error below or above all sizes that passed. All errors there are no multiples of them.
    """
    passed = [trial.batch_size for trial in trial_set.passed]
    errors = [size for size, trial in trial_set.latest.items() if trial.outcome is Outcome.FAILED]
    below = [size for size in errors if passed and size < passed[0]]
    above = [size for size in errors if passed and size > passed[-1]]
    common = gcd(*passed)
    divisors = (size for size in range(min([*below, common + 1]) - 1, 1, -1) if common % size == 0)
    lower = (size for size in divisors if below and all(failed % size for failed in below))
    upper = min(above, default=0) // common * common + common if common > 1 else 0
    beyond = [*islice(filter(limits.permits, lower), 1)]
    if above and upper <= cap and limits.permits(upper) and all(failed % common for failed in above):
        beyond.append(upper)
    return tuple(beyond)


def is_slower(trial: Trial, limits: Limits) -> bool:
    """True for a smaller size with a lower throughput: still smaller sizes have a lower one, by t = a + b B.

    They may reach a loss sooner all the same, if the user asks for that.
    """
    is_slower = trial.gain is not None and trial.gain.ratio < 1
    return is_slower and limits.objective is not Objective.TIME_TO_LOSS


def largest_divisor(global_batch: int | None, at_most: int, limits: Limits) -> int | None:
    """The largest permitted size that divides `global_batch`; None without a target or such a size."""
    if global_batch is None:
        return None
    sizes = range(limits.rounded_down(min(at_most, global_batch)), 0, -limits.unit)
    return next((size for size in sizes if global_batch % size == 0 and size >= limits.smallest), None)

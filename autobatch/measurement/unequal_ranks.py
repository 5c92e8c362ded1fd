"""Ranks of unequal speed: a size for each that adds up to the same global batch, measured on all of them.

The global batch stays the same, so the learning does too. The sizes pass a whole try on all ranks, and their
step is timed in turns with that of the common size.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from autobatch.decision.constants import MAX_REPEATS
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.budget import Budget
from autobatch.measurement.interleaved import time_in_turns
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Outcome, SizesPerRank


def size_ranks(engine: Engine, common_size: int, multiple_of: int, budget: Budget) -> SizesPerRank:
    """A size for each rank in place of a common size that has passed; `detail` says why there are none."""
    seconds = budget.overrun_seconds
    try:
        rates = _rates(engine, common_size, seconds)
        sizes = proportional_sizes(common_size, rates, multiple_of)
        if len(set(sizes)) == 1:
            return SizesPerRank(common_batch_size=common_size, detail="the ranks are equally quick")
        tried = engine.try_out(common_size, seconds, messages.FULL_STEPS, sizes=sizes)
        if tried.outcome is not Outcome.OK:
            return SizesPerRank(common_batch_size=common_size, batch_sizes=sizes, detail=tried.detail)
        return _time_sizes(engine, common_size, sizes, seconds)
    except AutobatchError as error:
        return SizesPerRank(common_batch_size=common_size, detail=error.message)
    finally:
        # Ranks that stepped alone have different weights.
        engine.renew()


def proportional_sizes(common_size: int, rates: Sequence[float], multiple_of: int = 1) -> tuple[int, ...]:
    """Sizes in proportion to the ranks' rates, `common_size` on average, multiples of `multiple_of`."""
    units = common_size * len(rates) // multiple_of
    shares = [units * rate / sum(rates) for rate in rates]
    sizes = [max(1, int(share)) for share in shares]
    while sum(sizes) != units:
        step = 1 if sum(sizes) < units else -1
        # The rank that is furthest from its share, on the right side.
        movable = [rank for rank, size in enumerate(sizes) if step > 0 or size > 1]
        sizes[max(movable, key=lambda rank: step * (shares[rank] - sizes[rank]))] += step
    return tuple(size * multiple_of for size in sizes)


def _rates(engine: Engine, common_size: int, seconds: float) -> list[float]:
    """Samples per second of each rank, which does not wait for the others; all run at the same time."""
    rounds = [engine.time_each(common_size, seconds) for _ in range(MAX_REPEATS)]
    return [common_size / median(step_seconds) for step_seconds in zip(*rounds, strict=True)]


def _time_sizes(engine: Engine, common_size: int, sizes: tuple[int, ...], seconds: float) -> SizesPerRank:
    timed = time_in_turns(
        lambda: engine.time_round(common_size, seconds, sizes=sizes),
        lambda: engine.time_round(common_size, seconds),
    )
    if isinstance(timed, messages.Tried):
        return SizesPerRank(common_batch_size=common_size, batch_sizes=sizes, detail=timed.detail)
    step_seconds, common_step_seconds = timed
    return SizesPerRank(
        common_batch_size=common_size,
        batch_sizes=sizes,
        step_seconds=step_seconds,
        common_step_seconds=common_step_seconds,
    )

"""Ranks of unequal speed: sizes of their own that add up to the same global batch, tried before told.

The learning stays what it is, since the global batch does. Only measured sizes are told: they pass a whole
try on all ranks, and their step is timed in turns with that of the common size.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from autobatch.engines import messages
from autobatch.engines.ranks.leader import RankedEngine
from autobatch.measurement.interleaved import in_turns
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Outcome, SizesPerRank

_ROUNDS = 5


def measure(engine: RankedEngine, common: int, multiple_of: int, seconds: float) -> SizesPerRank:
    """Sizes for each rank in the place of a common one that has passed; its `detail` says why there are none.

    A try and a round take `seconds` at most.
    """
    try:
        rates = _rates(engine, common, seconds)
        sizes = proportional(common, rates, multiple_of)
        if len(set(sizes)) == 1:
            return SizesPerRank(common_batch_size=common, detail="the ranks are equally quick")
        tried = engine.try_out(common, seconds, messages.FULL_STEPS, sizes=sizes)
        if tried.outcome is not Outcome.OK:
            return SizesPerRank(common_batch_size=common, batch_sizes=sizes, detail=tried.detail)
        return _timed(engine, common, sizes, seconds)
    except AutobatchError as error:
        return SizesPerRank(common_batch_size=common, detail=error.message)
    finally:
        # Ranks that stepped alone have weights of their own by now.
        engine.renew()


def proportional(common: int, rates: Sequence[float], multiple_of: int = 1) -> tuple[int, ...]:
    """Sizes in proportion to the rates of ranks, `common` on average, multiples of `multiple_of`."""
    units = common * len(rates) // multiple_of
    shares = [units * rate / sum(rates) for rate in rates]
    sizes = [max(1, int(share)) for share in shares]
    while sum(sizes) != units:
        step = 1 if sum(sizes) < units else -1
        # The rank that is furthest from its share, on the right side.
        movable = [rank for rank, size in enumerate(sizes) if step > 0 or size > 1]
        sizes[max(movable, key=lambda rank: step * (shares[rank] - sizes[rank]))] += step
    return tuple(size * multiple_of for size in sizes)


def _rates(engine: RankedEngine, common: int, seconds: float) -> list[float]:
    """Samples a second of each rank without waiting for the others, all of them at once."""
    rounds = [engine.time_each(common, seconds) for _ in range(_ROUNDS)]
    return [common / median(times) for times in zip(*rounds, strict=True)]


def _timed(engine: RankedEngine, common: int, sizes: tuple[int, ...], seconds: float) -> SizesPerRank:
    found = in_turns(
        lambda: engine.time_round(common, seconds, sizes=sizes),
        lambda: engine.time_round(common, seconds),
        _ROUNDS,
    )
    if isinstance(found, messages.Tried):
        return SizesPerRank(common_batch_size=common, batch_sizes=sizes, detail=found.detail)
    own, alike = found
    return SizesPerRank(
        common_batch_size=common, batch_sizes=sizes, step_seconds=own, common_step_seconds=alike
    )

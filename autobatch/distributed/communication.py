"""What ranks pay for training together: rounds with and without communication, in turns."""

from __future__ import annotations

from statistics import median

from autobatch.distributed.leading import RankedEngine
from autobatch.errors import AutobatchError
from autobatch.probe import wire
from autobatch.records import Communication

_PAIRS = 7


def measure(engine: RankedEngine, batch_size: int, seconds: float) -> Communication | None:
    """The cost at one size that has passed; None where it can't be had. A round takes `seconds` at most."""
    together: list[float] = []
    alone: list[float] = []
    try:
        for _ in range(_PAIRS):
            for found, apart in ((together, False), (alone, True)):
                reply = engine.time_round(batch_size, seconds, alone=apart)
                if not isinstance(reply, wire.Timed):
                    return None
                found.append(reply.step_seconds)
    except AutobatchError:
        return None  # `parallelize` of the user's; a rank that is lost is told by the next order
    finally:
        # Ranks that stepped alone have weights of their own by now.
        engine.renew()
    return Communication(batch_size=batch_size, step_seconds=median(together), alone_seconds=median(alone))

"""What ranks pay for training together: rounds with and without communication, in turns."""

from __future__ import annotations

from autobatch.engines import messages
from autobatch.engines.ranks.leader import RankedEngine
from autobatch.measurement.interleaved import in_turns
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Communication

_PAIRS = 7


def measure(engine: RankedEngine, batch_size: int, seconds: float) -> Communication | None:
    """The cost at one size that has passed; None where it can't be had. A round takes `seconds` at most."""
    try:
        found = in_turns(
            lambda: engine.time_round(batch_size, seconds),
            lambda: engine.time_round(batch_size, seconds, alone=True),
            _PAIRS,
        )
    except AutobatchError:
        return None  # `parallelize` of the user's; a rank that is lost is told by the next order
    finally:
        # Ranks that stepped alone have weights of their own by now.
        engine.renew()
    if isinstance(found, messages.Tried):
        return None
    together, alone = found
    return Communication(batch_size=batch_size, step_seconds=together, alone_seconds=alone)

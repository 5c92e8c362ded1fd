"""The price that ranks pay for training together: rounds with and without communication, in turns."""

from __future__ import annotations

from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.budget import Budget
from autobatch.measurement.interleaved import time_in_turns
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Communication


def measure_communication(engine: Engine, batch_size: int, budget: Budget) -> Communication | None:
    """The cost at a size that has passed; None where it can't be measured, or one process trains alone."""
    if engine.ranks == 1:
        return None
    seconds = budget.overrun_seconds
    try:
        timed = time_in_turns(
            lambda: engine.time_round(batch_size, seconds),
            lambda: engine.time_round(batch_size, seconds, alone=True),
        )
    except AutobatchError:
        # The user's `parallelize` may not work without communication; the next order names a lost rank.
        return None
    finally:
        # Ranks that stepped alone have different weights.
        engine.renew()
    if isinstance(timed, messages.Tried):
        return None
    together_seconds, alone_seconds = timed
    return Communication(batch_size=batch_size, step_seconds=together_seconds, alone_seconds=alone_seconds)

"""Two kinds of steps timed in turns, so that a machine that slows down for a while can't decide."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from autobatch.decision.constants import MAX_REPEATS
from autobatch.engines import messages

Round = Callable[[], messages.Timed | messages.Tried]


def time_in_turns(first: Round, second: Round) -> tuple[float, float] | messages.Tried:
    """The median step seconds of both kinds; the first failed round in their place."""
    pair: tuple[list[float], list[float]] = ([], [])
    for _ in range(MAX_REPEATS):
        for step_seconds, time_round in zip(pair, (first, second), strict=True):
            reply = time_round()
            if isinstance(reply, messages.Tried):
                return reply
            step_seconds.append(reply.step_seconds)
    return median(pair[0]), median(pair[1])

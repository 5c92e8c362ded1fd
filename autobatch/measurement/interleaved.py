"""Steps that are compared: timed in turns, so that a machine that gets slower for a while can't decide."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from autobatch.engines import messages

Round = Callable[[], messages.Timed | messages.Tried]


def in_turns(first: Round, second: Round, pairs: int) -> tuple[float, float] | messages.Tried:
    """The median seconds of a step of either, over so many rounds; a round that failed in their place."""
    ones: list[float] = []
    others: list[float] = []
    for _ in range(pairs):
        for found, timed in ((ones, first), (others, second)):
            reply = timed()
            if isinstance(reply, messages.Tried):
                return reply
            found.append(reply.step_seconds)
    return median(ones), median(others)

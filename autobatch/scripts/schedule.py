"""The wall time of a command's measurement: when its stages end, and whether another start fits in."""

from __future__ import annotations

import time

from autobatch.decision.constants import STAGE_SHARE
from autobatch.scripts.session import Session

# For a few steps or an evaluation in a fresh process, beside the time that the command takes to start.
_STEPS_SECONDS = 3.0
# A measurement that has begun gets this much, whatever is left.
_LEAST_SECONDS = 3.0
# Of the budget; a command that takes longer to start is not started once more to confirm its answer.
_SLOW_START = 0.25


class Schedule:
    """Times are seconds from the beginning of the measurement, the starts of the command included."""

    def __init__(self, session: Session, budget_seconds: float) -> None:
        self._session = session
        self._budget_seconds = budget_seconds
        self.begin = time.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.begin

    @property
    def another_start_seconds(self) -> float:
        """Seconds that a new process takes for a few steps or an evaluation."""
        return self._session.start_seconds + _STEPS_SECONDS

    @property
    def confirms(self) -> bool:
        """True where the budget has time for a start of the command to confirm the answer."""
        return self._session.start_seconds <= _SLOW_START * self._budget_seconds

    @property
    def end_seconds(self) -> float:
        """The end of the measurements, but for the confirmation.

        Sizes that came in a fresh process each, without a loop that can be cut, need no other one.
        """
        needs_start = self._session.in_place or self._session.observed.loader is not None
        kept = self.another_start_seconds if needs_start and self.confirms else 0.0
        return self._budget_seconds - kept

    @property
    def proof_end_seconds(self) -> float:
        """The end for the first other size: an answer that is not proven is worth little."""
        return self.end_seconds + STAGE_SHARE * self._budget_seconds

    @property
    def is_over(self) -> bool:
        return self.end_seconds < self.elapsed_seconds

    @property
    def left_seconds(self) -> float:
        """Seconds that a measurement which begins now may take."""
        return max(_LEAST_SECONDS, self.end_seconds - self.elapsed_seconds)

    @property
    def evaluation_seconds(self) -> float:
        """Seconds that the evaluation of a confirmation may take now."""
        return max(_LEAST_SECONDS, self._budget_seconds - self.elapsed_seconds)

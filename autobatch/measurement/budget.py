"""The time that a search may take: spent, left, and the share of a stage."""

from __future__ import annotations

from collections.abc import Callable

from autobatch.decision.constants import SHORTEST_TRIAL_SECONDS, STAGE_SHARE
from autobatch.engines.base import Engine
from autobatch.records.limits import Limits


class Budget:
    """Seconds that a search, or one of its stages, may take. Everything that takes time asks it.

    `total_seconds`: from `start_seconds` of the clock on. `overrun_seconds`: a measurement that the answer
    needs, such as its confirmation, may take so long even after the end.
    """

    def __init__(
        self,
        total_seconds: float,
        clock: Callable[[], float],
        *,
        start_seconds: float = 0.0,
        overrun_seconds: float = 0.0,
    ) -> None:
        self.total_seconds = total_seconds
        self.overrun_seconds = overrun_seconds
        self._clock = clock
        self._start_seconds = start_seconds

    @classmethod
    def of(cls, limits: Limits, engine: Engine) -> Budget:
        """The whole budget of a search: wall time since the engine was made, all but compiling."""
        return cls(
            limits.budget_seconds,
            lambda: engine.busy_seconds,
            overrun_seconds=limits.trial_timeout_seconds,
        )

    @property
    def spent_seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start_seconds

    @property
    def left_seconds(self) -> float:
        """Seconds until the end; negative after it."""
        return self.total_seconds - self.spent_seconds

    @property
    def is_over(self) -> bool:
        return self.left_seconds <= 0

    def allows(self, seconds: float) -> bool:
        """True where a measurement that the answer needs ends in time, or a tenth of the whole later."""
        return self.left_seconds + STAGE_SHARE * self.total_seconds >= seconds

    def reserving(self, seconds: float) -> Budget:
        """The same budget without its last `seconds`, which a later measurement needs."""
        return Budget(
            self.total_seconds - seconds,
            self._clock,
            start_seconds=self._start_seconds,
            overrun_seconds=self.overrun_seconds,
        )

    @property
    def trial_seconds(self) -> float:
        """Seconds that the next trial or timing round may take; a few even where the end has just passed."""
        return max(self.left_seconds, SHORTEST_TRIAL_SECONDS)

    def stage(self, share: float) -> Budget:
        """The budget of a stage that begins now: a share of the whole, and no more than is left."""
        return Budget(
            min(share * self.total_seconds, self.left_seconds),
            self._clock,
            start_seconds=self._clock(),
            overrun_seconds=self.overrun_seconds,
        )

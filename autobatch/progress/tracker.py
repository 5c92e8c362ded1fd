"""The state of a running search, from the events of its measurement."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from autobatch.decision.trial_set import throughput
from autobatch.engines.base import Opened
from autobatch.measurement.climb import Observer
from autobatch.records.formatting import format_count, format_rate
from autobatch.records.trial import Trial

START, THROUGHPUT, CHECK = "start", "throughput", "check"
_log = logging.getLogger("autobatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A search at one moment.

    `phase`: `start` until the worker is ready, `throughput` while sizes are tried, `check` from the first
    measurement after them, empty for work that is no search. `message`: the last event. `left_seconds`: the
    rest of the budget, which a search may not need; None without a budget. `batch_size`,
    `samples_per_second`: of the size that passed last.
    """

    phase: str
    message: str
    elapsed_seconds: float
    left_seconds: float | None
    batch_size: int | None = None
    samples_per_second: float | None = None


class Tracker(Observer):
    """Hears of a search, and tells a listener of each event. Each is logged as `autobatch`, level INFO."""

    def __init__(
        self,
        budget_seconds: float | None,
        listener: Callable[[Progress], None] = lambda progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget_seconds = budget_seconds
        self._listener = listener
        self._clock = clock
        self._begin_seconds = clock()
        self._phase, self._message = START, "starting the worker"
        self._batch_size: int | None = None
        self._samples_per_second: float | None = None
        self._outcomes: dict[int, str] = {}

    def progress(self) -> Progress:
        """Return the search as it is now."""
        elapsed_seconds = self._clock() - self._begin_seconds
        budget_seconds = self._budget_seconds
        return Progress(
            phase=self._phase,
            message=self._message,
            elapsed_seconds=elapsed_seconds,
            left_seconds=None if budget_seconds is None else max(0.0, budget_seconds - elapsed_seconds),
            batch_size=self._batch_size,
            samples_per_second=self._samples_per_second,
        )

    def opened(self, opened: Opened) -> None:
        self._phase = THROUGHPUT
        self._tell(f"the worker is ready on {opened.device.label}")

    def trying(self, batch_size: int) -> None:
        # A try may take seconds, but its result follows at once, so that lines and logs skip it.
        self._message = f"batch size {format_count(batch_size)}"

    def tried(self, trial: Trial) -> None:
        rate = throughput(trial)
        if trial.ok:
            self._batch_size, self._samples_per_second = trial.batch_size, rate
        text = f"{format_rate(rate)} samples/s" if trial.ok and rate else trial.outcome.replace("_", " ")
        # More rounds of a size are no news.
        if self._outcomes.get(trial.batch_size) != trial.outcome:
            self._outcomes[trial.batch_size] = trial.outcome
            self._tell(f"batch size {format_count(trial.batch_size)}: {text}")

    def checking(self, what: str) -> None:
        self._phase = CHECK
        self._tell(what)

    def note(self, message: str) -> None:
        """Tell of work that is no search, such as a plan."""
        self._phase = ""
        self._tell(message)

    def _tell(self, message: str) -> None:
        self._message = message
        _log.info("%s", message)
        self._listener(self.progress())

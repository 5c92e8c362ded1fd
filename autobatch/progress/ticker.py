"""A thread that redraws something at regular intervals."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker(threading.Thread):
    """Calls `tick` every `interval_seconds`, from `start()` until `end()`."""

    def __init__(self, tick: Callable[[], None], interval_seconds: float) -> None:
        super().__init__(name="autobatch-progress", daemon=True)
        self._tick = tick
        self._interval_seconds = interval_seconds
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def run(self) -> None:
        while not self._ended.wait(self._interval_seconds):
            self._tick()

    def end(self) -> None:
        """Wait for a tick in progress, and let no other begin."""
        self._ended.set()
        self.join()

"""The peak of a reading for which the system keeps no high-water mark."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PeakSampler:
    """Sample `read` in a thread every `interval_seconds`, from construction until `stop`."""

    def __init__(self, read: Callable[[], int], interval_seconds: float = 0.001) -> None:
        self._read = read
        self._interval_seconds = interval_seconds
        self._highest = read()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End the sampling; return the highest sample, including a last one."""
        self._done.set()
        self._thread.join()
        return max(self._highest, self._read())

    def _sample(self) -> None:
        while not self._done.wait(self._interval_seconds):
            self._highest = max(self._highest, self._read())

"""The peak of a reading, from samples."""

from __future__ import annotations

import threading

from autobatch.devices.sampling import PeakSampler


def test_a_peak_between_start_and_stop_is_seen() -> None:
    values = [1, 5, 2]
    passed_peak = threading.Event()

    def read() -> int:
        value = values.pop(0) if len(values) > 1 else values[0]
        if value == 2:
            passed_peak.set()
        return value

    sampler = PeakSampler(read)
    assert passed_peak.wait(10)
    assert sampler.stop() == 5


def test_the_value_at_the_end_counts() -> None:
    readings = iter([3, 8])
    sampler = PeakSampler(lambda: next(readings), interval_seconds=60.0)
    assert sampler.stop() == 8

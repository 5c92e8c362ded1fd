"""The state of a search follows its events, and each event is heard and logged once."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from autobatch.engines.base import Opened
from autobatch.progress.tracker import CHECK, START, THROUGHPUT, Progress, Tracker
from autobatch.records.trial import Outcome, Trial
from tests.storage.test_codec import SMALL

OPENED = Opened(device=SMALL.device, workload=SMALL.workload, torch="2")
PASSED = Trial(batch_size=32, outcome=Outcome.OK, step_seconds=(0.01,), samples_per_second=3200.0)


class Clock:
    """A clock that the test turns."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_search_from_its_start_to_its_check(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="autobatch")
    heard: list[Progress] = []
    clock = Clock()
    tracker = Tracker(60.0, heard.append, clock)
    assert tracker.progress() == Progress(
        phase=START, message="starting the worker", elapsed_seconds=0.0, left_seconds=60.0
    )
    clock.seconds += 5
    tracker.opened(OPENED)
    tracker.trying(32)
    assert tracker.progress().message == "batch size 32"
    tracker.tried(PASSED)
    clock.seconds += 5
    tracker.tried(replace(PASSED, batch_size=1024, outcome=Outcome.OUT_OF_MEMORY, samples_per_second=None))
    tracker.checking("measuring the gradient noise")
    messages = [
        "the worker is ready on cpu",
        "batch size 32: 3,200 samples/s",
        "batch size 1,024: out of memory",
        "measuring the gradient noise",
    ]
    assert [progress.message for progress in heard] == messages
    assert [record.getMessage() for record in caplog.records] == messages
    assert [progress.phase for progress in heard] == [THROUGHPUT, THROUGHPUT, THROUGHPUT, CHECK]
    last = heard[-1]
    assert (last.elapsed_seconds, last.left_seconds) == (10.0, 50.0)
    assert (last.batch_size, last.samples_per_second) == (32, 3200.0)


def test_more_rounds_of_a_size_are_no_news() -> None:
    heard: list[Progress] = []
    tracker = Tracker(60.0, heard.append)
    for trial in (PASSED, PASSED, replace(PASSED, samples_per_second=3300.0)):
        tracker.tried(trial)
    assert len(heard) == 1
    tracker.tried(replace(PASSED, outcome=Outcome.CRASHED))
    assert heard[-1].message == "batch size 32: crashed"


def test_other_work_has_no_phase() -> None:
    heard: list[Progress] = []
    Tracker(None, heard.append).note("tracing")
    assert [(progress.phase, progress.message) for progress in heard] == [("", "tracing")]


def test_nothing_is_left_after_the_budget() -> None:
    clock = Clock()
    tracker = Tracker(1.0, clock=clock)
    clock.seconds += 3
    assert tracker.progress().left_seconds == 0.0
    assert Tracker(None).progress().left_seconds is None

"""Figures that follow from a trial's measurements."""

from __future__ import annotations

import pytest

from autobatch.records.trial import Communication, Loader, LoaderTiming, MemoryLine, Outcome
from tests.builders import failed_trial, trial


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_a_trial_is_ok_by_its_outcome_alone(outcome: Outcome) -> None:
    assert trial(8).ok
    assert not failed_trial(8, outcome, peak_bytes=5).ok


def test_memory_is_a_straight_line_of_the_batch_size() -> None:
    line = MemoryLine(fixed_bytes=100, sample_bytes=7)
    assert (line.at(0), line.at(10)) == (100, 170)


@pytest.mark.parametrize(
    ("workers", "batch_seconds", "pace"),
    [(0, 0.2, 0.7), (2, 0.2, 0.5), (2, 0.8, 0.8), (1, None, None)],
)
def test_workers_load_beside_the_step_and_a_lone_process_before_it(
    workers: int, batch_seconds: float | None, pace: float | None
) -> None:
    loader = Loader(batch_size=8, workers=0, step_seconds=0.5)
    assert loader.pace_seconds(LoaderTiming(workers=workers, batch_seconds=batch_seconds)) == pace


@pytest.mark.parametrize(("alone", "seconds"), [(0.3, 0.2), (0.5, 0.0), (0.6, 0.0)])
def test_communication_is_never_negative(alone: float, seconds: float) -> None:
    measured = Communication(batch_size=8, step_seconds=0.5, alone_seconds=alone)
    assert measured.seconds == pytest.approx(seconds)

"""The parts of a step: those that were measured, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.records.recommendation import Recommendation, StepTime
from autobatch.records.trial import Communication, Loader, LoaderTiming
from autobatch.reports.html import step_parts
from tests import builders

LAW = StepTime(fixed_seconds=0.002, sample_seconds=1e-4, relative_error=0.01)


def answer(**fields: object) -> Recommendation:
    return replace(builders.recommendation(64, step_time=LAW), **fields)  # type: ignore[arg-type]


def test_a_fitted_step_has_a_fixed_part_and_a_part_for_its_samples() -> None:
    assert dict(step_parts.parts(answer())) == {
        step_parts.FIXED: 0.002,
        step_parts.SAMPLES: pytest.approx(0.0064),
    }


def test_communication_is_taken_from_the_fixed_part() -> None:
    measured = Communication(batch_size=64, step_seconds=0.010, alone_seconds=0.009)
    parts = dict(step_parts.parts(answer(communication=measured)))
    assert parts[step_parts.COMMUNICATION] == pytest.approx(0.001)
    assert parts[step_parts.FIXED] == pytest.approx(0.001)


@pytest.mark.parametrize(("batch_seconds", "waits"), [(0.02, 0.02), (None, None)])
def test_a_step_waits_for_a_loader_without_workers(batch_seconds: float | None, waits: float | None) -> None:
    timings = (LoaderTiming(workers=0, batch_seconds=batch_seconds),)
    loader = Loader(batch_size=64, workers=0, step_seconds=0.01, timings=timings)
    waiting = dict(step_parts.parts(answer(loader=loader))).get(step_parts.WAITING)
    assert waiting == (None if waits is None else pytest.approx(waits))


def test_without_a_fit_there_is_no_table() -> None:
    assert step_parts.render(answer(step_time=None)) is None
    shown = step_parts.render(answer())
    assert shown is not None
    assert "--share: 23.8%" in shown
    assert "--share: 76.2%" in shown

"""The sentences about measurements, at the edges that no golden report has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.records.trial import Ceiling, LimitedBy, Loader, LoaderTiming
from autobatch.reports.text import measurements
from tests.golden.test_text_report import CPU_ANSWER, DIGITS, ENVIRONMENT, GPU_ANSWER, IMAGES


@pytest.mark.parametrize("limited_by", LimitedBy)
@pytest.mark.parametrize("verified", [False, True])
def test_every_reason_for_a_ceiling_has_its_words(limited_by: LimitedBy, verified: bool) -> None:
    text = measurements.ceiling_text(Ceiling(batch_size=64, limited_by=limited_by, verified=verified), DIGITS)
    exact = limited_by in (LimitedBy.MEMORY, LimitedBy.SIZE_LIMIT)
    assert text.startswith("up to 64; " if exact else "at least 64; ")
    assert ("fresh process" in text) is verified
    assert ("1,437 samples" in text) is (limited_by is LimitedBy.DATASET)


def loader(*batch_seconds: float | None, sufficient_workers: int | None = None) -> Loader:
    timings = tuple(
        LoaderTiming(workers=workers, batch_seconds=seconds) for workers, seconds in enumerate(batch_seconds)
    )
    return Loader(
        batch_size=100,
        workers=0,
        step_seconds=0.1,
        timings=timings,
        sufficient_workers=sufficient_workers,
    )


@pytest.mark.parametrize(
    ("timed", "end"),
    [
        (loader(0.001, sufficient_workers=0), "training alone 1,000: that is enough"),
        (loader(0.4), "training alone 1,000: loading is the bottleneck"),
        (loader(0.4, 0.05, sufficient_workers=1), "; with 1 worker 1,000 (measured)"),
        (loader(0.4, 0.3, 0.1, sufficient_workers=2), "; with 2 workers 1,000 (measured)"),
        (loader(None), "a DataLoader with 0 workers (torch's default) failed"),
    ],
)
def test_loading(timed: Loader, end: str) -> None:
    assert measurements.loader_text(GPU_ANSWER, timed).endswith(end)


def test_the_current_number_of_workers_is_the_users() -> None:
    answer = replace(GPU_ANSWER, workload=replace(IMAGES, workers=0))
    assert measurements.loader_text(answer, loader(0.4)).startswith("with your 0 workers ")


def test_only_an_accelerator_has_an_allocator() -> None:
    assert measurements.allocator_text(GPU_ANSWER) == (
        "at 128: 23.4 GiB allocated, 24.5 GiB reserved; at 256: 45.1 GiB allocated, 47.8 GiB reserved"
    )
    assert measurements.allocator_text(CPU_ANSWER) == ""


def test_a_cached_answer_has_its_date_or_none() -> None:
    cached = measurements.took_text(ENVIRONMENT, cached=True)
    assert cached == "Measured 2026-03-01 12:00 UTC in 43.0 s; --fresh measures again"
    assert measurements.took_text(None, cached=True) == "Measured earlier; --fresh measures again"


def test_another_answer_has_the_time_it_took() -> None:
    assert measurements.took_text(ENVIRONMENT) == "Took 43.0 s"
    assert measurements.took_text(None) == ""

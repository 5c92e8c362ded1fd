"""The choice of trials to show: around the answer, each size once, refinements folded."""

from __future__ import annotations

import pytest

from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome
from autobatch.reports.text import row_choice
from tests import builders
from tests.golden.test_text_report import CASES

SIZES = [2**power for power in range(12)]


def answer(batch_size: int, current: int | None = None) -> Recommendation:
    return builders.recommendation(
        batch_size,
        trials=tuple(builders.trial(size) for size in SIZES),
        workload=builders.workload(batch_size=current, dataset_size=4096),
    )


@pytest.mark.parametrize(
    ("batch_size", "current", "shown"),
    [
        (64, None, [16, 32, 64, 128, 256]),
        (64, 32, [16, 32, 64, 128, 256]),
        # A current size that is far away is shown all the same.
        (1024, 4, [4, 256, 512, 1024, 2048]),
        (1, None, [1, 2, 4, 8, 16]),
    ],
)
def test_five_sizes_around_the_answer(batch_size: int, current: int | None, shown: list[int]) -> None:
    rows = row_choice.around_answer(answer(batch_size, current))
    assert [trial.batch_size for trial in rows] == shown


def test_a_failure_beside_the_answer_is_shown() -> None:
    failed = builders.failed_trial(128)
    recommendation = builders.recommendation(64, trials=(builders.trial(64), failed))
    assert [trial.outcome for trial in row_choice.around_answer(recommendation)] == [
        Outcome.OK,
        Outcome.OUT_OF_MEMORY,
    ]


def test_a_size_that_was_tried_twice_is_shown_once_as_it_ended() -> None:
    trials = (builders.failed_trial(8, Outcome.CRASHED), builders.trial(4), builders.trial(8))
    shown = row_choice.latest(builders.recommendation(4, trials=trials))
    assert [(trial.batch_size, trial.ok) for trial in shown] == [(4, True), (8, True)]


def test_refinements_and_further_failures_become_a_line_each() -> None:
    shown, folded, failures = row_choice.sorted_out(CASES["refinements"]())
    assert [trial.batch_size for trial in shown] == [32, 64, 128, 256, 444, 446]
    assert row_choice.folded_text(folded) == "4 more sizes from 384 to 440 fit"
    assert row_choice.further_text(failures) == "out of memory at 3 larger sizes up to 512 as well"
    assert row_choice.further_text(failures[:1]) == "out of memory at 447 as well"

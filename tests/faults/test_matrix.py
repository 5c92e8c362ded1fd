"""Every fault in every phase ends with a name, in time, keeps its rows, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import cases, driving
from tests.faults.cases import Case


@pytest.fixture(scope="module")
def bench() -> Iterator[driving.Bench]:
    """One worker for all cases of this file."""
    with driving.bench() as opened:
        yield opened


@pytest.mark.parametrize("case", cases.QUICK, ids=lambda case: case.name)
def test_a_fault(bench: driving.Bench, case: Case) -> None:
    _assert_survived(bench, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.MATRIX, ids=lambda case: case.name)
def test_the_whole_matrix(bench: driving.Bench, case: Case) -> None:
    _assert_survived(bench, case)


def test_the_fast_tier_has_every_phase_and_every_fault() -> None:
    assert {case.phase for case in cases.QUICK} == set(cases.PHASES)
    assert {case.fault.name for case in cases.QUICK} == {fault.name for fault in cases.FAULTS}
    assert len({case.name for case in cases.MATRIX}) == len(cases.MATRIX)


def _assert_survived(bench: driving.Bench, case: Case) -> None:
    why_not = bench.missing(case)
    if why_not:
        pytest.skip(why_not)
    assert bench.carry_out(case).problems == ()

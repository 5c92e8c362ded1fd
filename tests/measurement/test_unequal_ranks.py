"""Sizes of each rank: shares by speed that add up, on the real leader and members over simulated devices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.engines import messages
from autobatch.measurement import unequal_ranks
from autobatch.measurement.budget import Budget
from autobatch.records.limits import Limits
from tests.simulated import MIB, Machine
from tests.simulated_ranks import alike, ranked

LIMITS = Limits(budget_seconds=1e6)


@given(
    st.integers(1, 4096),
    st.lists(st.floats(0.1, 1e5), min_size=2, max_size=9),
    st.sampled_from([1, 2, 8]),
)
def test_sizes_add_up_to_the_global_batch_in_the_order_of_the_rates(
    units: int, rates: list[float], multiple_of: int
) -> None:
    sizes = unequal_ranks.proportional_sizes(units * multiple_of, rates, multiple_of)
    assert sum(sizes) == units * multiple_of * len(rates)
    assert all(size >= multiple_of and size % multiple_of == 0 for size in sizes)
    for rate, size in zip(rates, sizes, strict=True):
        for other, others in zip(rates, sizes, strict=True):
            assert rate <= other or size >= others


def slower(machine: Machine, times: float) -> Machine:
    return replace(machine, step_seconds=lambda size: times * machine.step_seconds(size))


def test_a_slow_rank_gets_less_and_the_step_gets_shorter() -> None:
    quick = Machine(step_seconds=lambda size: 0.001 * size)
    engine, _, _ = ranked([quick, slower(quick, 3.0)], LIMITS)
    found = unequal_ranks.size_ranks(engine, 64, 1, Budget.of(LIMITS, engine))
    assert found.batch_sizes == (96, 32)
    assert found.step_seconds == pytest.approx(0.096)
    assert found.common_step_seconds == pytest.approx(0.192)
    assert found.detail == ""


def test_ranks_that_are_equally_quick_get_no_sizes_of_their_own() -> None:
    engine, _, _ = ranked(alike(Machine(), 3), LIMITS)
    found = unequal_ranks.size_ranks(engine, 64, 8, Budget.of(LIMITS, engine))
    assert found.batch_sizes == ()
    assert found.step_seconds is None
    assert found.detail == "the ranks are equally quick"


def test_sizes_that_do_not_fit_are_told_with_their_rank() -> None:
    quick = Machine(step_seconds=lambda size: 0.001 * size)
    small = replace(quick, total_bytes=500 * MIB)
    common = small.true_ceiling
    engine, _, _ = ranked([small, slower(quick, 3.0)], LIMITS)
    assert engine.try_out(common, 10.0, messages.FULL_STEPS).outcome == "ok"
    found = unequal_ranks.size_ranks(engine, common, 1, Budget.of(LIMITS, engine))
    assert found.batch_sizes[0] > common
    assert found.step_seconds is None
    assert "on rank 0" in found.detail

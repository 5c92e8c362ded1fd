"""The confirmation of a ceiling: which size, for how many steps, and the meaning of its end."""

from __future__ import annotations

import pytest

from autobatch.decision.constants import VERIFY_STEPS
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.trial_set import TrialSet
from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement.budget import Budget
from autobatch.measurement.verification import Verification, verify
from autobatch.records.limits import Limits
from autobatch.records.trial import MemoryLine, Outcome, Trial

MIB = 1 << 20
LINES = (MemoryLine(fixed_bytes=0.0, sample_bytes=MIB),)
Asked = list[tuple[int, float, int]]


def passed(*sizes: int) -> TrialSet:
    return TrialSet(
        tuple(Trial(batch_size=size, outcome=Outcome.OK, peak_bytes=size * MIB) for size in sizes)
    )


def verified(
    trial_set: TrialSet, outcome: Outcome, *, heap: bool, left_seconds: float = 10.0
) -> tuple[Verification, Asked]:
    asked: Asked = []

    def attempt(batch_size: int, seconds: float, steps: int) -> Trial:
        asked.append((batch_size, seconds, steps))
        return Trial(batch_size=batch_size, outcome=outcome)

    budget = Budget(left_seconds, lambda: 0.0, overrun_seconds=120.0)
    memory = Memory(100 * MIB, heap=heap, lines=LINES)
    return verify(attempt, trial_set, Limits(), None, memory, budget), asked


@pytest.mark.parametrize(("heap", "size", "steps"), [(False, 98, VERIFY_STEPS), (True, 90, 2 * VERIFY_STEPS)])
def test_a_heap_is_tried_for_more_steps_at_a_size_that_leaves_the_margin(
    heap: bool, size: int, steps: int
) -> None:
    result, asked = verified(passed(50, 90, 98), Outcome.OK, heap=heap)
    assert asked == [(size, 10.0, steps)]
    assert (result.batch_size, result.verified, result.failed) == (size, True, False)


def test_a_failure_is_not_the_end_of_the_time() -> None:
    result, _ = verified(passed(50, 98), Outcome.OUT_OF_MEMORY, heap=False)
    assert (result.batch_size, result.verified, result.failed) == (98, False, True)
    result, asked = verified(passed(50, 98), Outcome.OK, heap=False, left_seconds=0.0)
    assert (result.batch_size, result.trial, result.verified, result.failed) == (98, None, False, False)
    assert not asked


def test_without_time_a_ceiling_does_not_fall_to_a_far_smaller_size_untried() -> None:
    """A search that jumped from 1 to 98 has tried nothing between them."""
    result, asked = verified(passed(1, 98), Outcome.OK, heap=True, left_seconds=0.0)
    assert asked == [(90, 120.0, FULL_STEPS)]
    assert result.trial is not None
    assert (result.trial.ok, result.verified) == (True, False)
    assert "batch size 90 passed a few in a fresh process" in result.warning
    result, _ = verified(passed(1, 98), Outcome.OUT_OF_MEMORY, heap=True, left_seconds=0.0)
    assert "far below 98, which passed once: raise `--budget`" in result.warning


def test_without_time_a_tried_size_just_below_is_the_ceiling() -> None:
    result, asked = verified(passed(50, 98), Outcome.OK, heap=True, left_seconds=0.0)
    assert not asked
    assert (result.trial, result.warning) == (None, "")

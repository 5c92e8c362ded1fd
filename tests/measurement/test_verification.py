"""The confirmation of a ceiling: which size, for how many steps, and the meaning of its end."""

from __future__ import annotations

import pytest

from autobatch.decision.constants import VERIFY_STEPS
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.trial_set import TrialSet
from autobatch.measurement.verification import verify
from autobatch.records.limits import Limits
from autobatch.records.trial import MemoryLine, Outcome, Trial

MIB = 1 << 20
LINES = (MemoryLine(fixed_bytes=0.0, sample_bytes=MIB),)
PASSED = TrialSet(
    tuple(Trial(batch_size=size, outcome=Outcome.OK, peak_bytes=size * MIB) for size in (50, 90, 98))
)


@pytest.mark.parametrize(("heap", "size", "steps"), [(False, 98, VERIFY_STEPS), (True, 90, 2 * VERIFY_STEPS)])
def test_a_heap_is_tried_for_more_steps_at_a_size_that_leaves_the_margin(
    heap: bool, size: int, steps: int
) -> None:
    asked = []

    def attempt(batch_size: int, steps: int) -> Trial:
        asked.append((batch_size, steps))
        return Trial(batch_size=batch_size, outcome=Outcome.OK)

    result = verify(attempt, PASSED, Limits(), None, Memory(100 * MIB, heap=heap, lines=LINES))
    assert asked == [(size, steps)]
    assert (result.batch_size, result.verified, result.failed) == (size, True, False)


def test_a_failure_is_not_the_end_of_the_time() -> None:
    failed = Trial(batch_size=98, outcome=Outcome.OUT_OF_MEMORY)
    for trial, has_failed in ((failed, True), (None, False)):
        result = verify(lambda *_, trial=trial: trial, PASSED, Limits(), None, Memory())
        assert (result.batch_size, result.verified, result.failed) == (98, False, has_failed)

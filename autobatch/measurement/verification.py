"""The confirmation of a ceiling: full steps and an evaluation in a fresh process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autobatch.decision.constants import VERIFY_STEPS
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.search import size_to_confirm
from autobatch.decision.trial_set import TrialSet
from autobatch.records.limits import Limits
from autobatch.records.trial import Trial

Attempt = Callable[[int, int], Trial | None]


@dataclass(frozen=True, slots=True)
class Verification:
    """The size that was to be confirmed, and its trial; None where the time was over."""

    batch_size: int
    trial: Trial | None

    @property
    def failed(self) -> bool:
        return self.trial is not None and not self.trial.ok

    @property
    def verified(self) -> bool:
        return self.trial is not None and self.trial.ok


def verify(
    attempt: Attempt, trial_set: TrialSet, limits: Limits, dataset_size: int | None, memory: Memory
) -> Verification:
    """One try of the ceiling by `attempt(batch_size, steps)`, in a fresh process.

    The memory of a heap grows for more steps than an allocator's, so it is tried for twice as many. A size
    that fails bounds the search, which then comes to a smaller one.
    """
    size = size_to_confirm(trial_set, limits, dataset_size, memory)
    assert size is not None
    return Verification(size, attempt(size, 2 * VERIFY_STEPS if memory.heap else VERIFY_STEPS))

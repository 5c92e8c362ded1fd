"""The confirmation of a ceiling: full steps and an evaluation in a fresh process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autobatch.decision.constants import VERIFY_STEPS
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.reach import size_to_confirm
from autobatch.decision.trial_set import TrialSet
from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement.budget import Budget
from autobatch.records.limits import Limits
from autobatch.records.trial import Trial

# (batch size, seconds, steps)
Attempt = Callable[[int, float, int], Trial | None]


@dataclass(frozen=True, slots=True)
class Verification:
    """The size that was to be confirmed, and its trial; None where the time was over.

    `verified`: the trial passed, with all of its steps.
    """

    batch_size: int
    trial: Trial | None
    verified: bool
    warning: str = ""

    @property
    def failed(self) -> bool:
        return self.trial is not None and not self.trial.ok


def verify(
    attempt: Attempt,
    trial_set: TrialSet,
    limits: Limits,
    dataset_size: int | None,
    memory: Memory,
    budget: Budget,
) -> Verification:
    """One try of the ceiling, in a fresh process.

    The memory of a heap grows for more steps than an allocator's, so it is tried for twice as many. A size
    that fails bounds the search, which then comes to a smaller one. Where the time is over, a ceiling that
    would fall below half of its size for that reason is tried for a few steps all the same.
    """
    size = size_to_confirm(trial_set, limits, dataset_size, memory)
    assert size is not None
    trial = None
    if not budget.is_over:
        trial = attempt(size, budget.trial_seconds, 2 * VERIFY_STEPS if memory.heap else VERIFY_STEPS)
    if trial is not None:
        return Verification(size, trial, trial.ok)
    instead = TrialSet(trial_set.trials, size).nearest(size)
    if instead is not None and 2 * instead.batch_size > size:
        return Verification(size, None, verified=False)
    trial = attempt(size, budget.overrun_seconds, FULL_STEPS)
    return Verification(size, trial, verified=False, warning=_out_of_time(size, trial, trial_set))


def _out_of_time(size: int, trial: Trial | None, trial_set: TrialSet) -> str:
    before = "the budget ended before the largest size was confirmed with all steps"
    if trial is not None and trial.ok:
        return f"{before}: batch size {size:,} passed a few in a fresh process; raise `--budget` to be sure"
    largest = trial_set.largest_passed
    return f"{before}, so the answer may be far below {largest:,}, which passed once: raise `--budget`"

"""Pure decisions of the climb: the batch size to try next, or the reason to stop.

The state is the set of trials so far and the forecast of memory. Nothing else counts, so a search can be
replayed from a saved curve.
"""

from __future__ import annotations

import re

from autobatch.decision.constants import FLATS_TO_STOP, SMALL_BATCH_SIZE
from autobatch.decision.memory_forecast import Memory
from autobatch.decision.reach import Reach, Stop, Trace, Try, close_in, upwards
from autobatch.decision.round_statistics import is_flat
from autobatch.decision.size_bounds import climbs_past_plateau, current_or_usual, next_doubling, size_cap
from autobatch.decision.trial_set import TrialSet, limit_of
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import LimitedBy, Outcome, Trial

NO_FORECAST = Memory()


def next_move(
    trial_set: TrialSet,
    limits: Limits,
    dataset_size: int | None,
    memory: Memory = NO_FORECAST,
    *,
    current_size: int | None = None,
) -> Try | Trace | Stop:
    """The next size to try, or the reason to stop.

    The current size comes first, because the answer is compared with it. From there, or from the smallest,
    sizes double to the first failure, the plateau or the cap, but never past the size that is predicted to
    fit. Where only the ceiling counts, the search jumps to that size. Then successes and failures close in on
    the ceiling: to a single step, or on a CPU's heap to its margin.
    """
    cap, reason = size_cap(limits, dataset_size)
    timed = limits.objective is not Objective.MEMORY
    if not trial_set.trials:
        first = current_or_usual(limits, cap, current_size) if current_size else limits.smallest
        return Try(first, timed=timed)
    last = trial_set.trials[-1]
    # A worker may also be killed from outside, so a crash counts from the second time on.
    if last.outcome is Outcome.CRASHED and _crashes(trial_set, last.batch_size) == 1:
        return Try(last.batch_size)
    if trial_set.largest_passed is None:
        # A current size that is the smallest says nothing of larger ones.
        other = current_size if current_size and current_size > limits.smallest else None
        return _without_success(trial_set, limits, cap, current_or_usual(limits, cap, other))
    reach = Reach(trial_set, limits, memory, cap)
    plateau = _on_plateau(trial_set)
    to_ceiling = not timed or (climbs_past_plateau(limits) and plateau)
    failure = reach.failure
    # The current size may have failed far above: then the sizes below it are climbed first.
    if failure is not None and (to_ceiling or failure.batch_size <= reach.doubled):
        return _beyond_hole(reach, failure) or close_in(reach, failure)
    if plateau and not to_ceiling:
        return Stop(LimitedBy.PLATEAU, f"{FLATS_TO_STOP} doublings in a row brought no throughput")
    if reach.passed >= cap:
        return Stop(reason)
    return upwards(reach, to_ceiling=to_ceiling)


def _without_success(trial_set: TrialSet, limits: Limits, cap: int, usual: int) -> Try | Stop:
    """The move where nothing passed yet. Errors of small sizes may be a floor, as BatchNorm's.

    The same error at the smallest and at the current or usual size is none of the size.
    """
    timed, latest = limits.objective is not Objective.MEMORY, trial_set.latest
    smallest = latest.get(limits.smallest)
    if smallest is None:
        return Try(limits.smallest, timed=timed)
    if smallest.outcome is not Outcome.FAILED:
        return Stop(limit_of(smallest), smallest.detail)
    if usual not in latest:
        return Try(usual, timed=timed)
    size = limits.smallest
    while size < usual and not _same_error(smallest, latest[usual]):
        size = next_doubling(size, limits, cap)
        if size not in latest:
            return Try(size, timed=timed)
        if latest[size].outcome is not Outcome.FAILED:
            break
    return Stop(limit_of(smallest), smallest.detail)


def _same_error(trial: Trial, other: Trial) -> bool:
    """True where two sizes failed alike. Their errors may name shapes, so digits don't count."""
    if trial.batch_size == other.batch_size:
        return False
    texts = {re.sub(r"\d+", "", failed.detail) for failed in (trial, other)}
    return len(texts) == 1 and trial.outcome is other.outcome is Outcome.FAILED


def _beyond_hole(reach: Reach, failure: Trial) -> Try | None:
    """The next size after an error that is not of memory, as long as the error may be of that size alone."""
    step, latest = reach.limits.unit, reach.trial_set.latest
    following = failure.batch_size + step
    if failure.outcome is not Outcome.FAILED or following > reach.cap or following in latest:
        return None
    is_limit = any(reach.trial_set.persists(size, step) for size in latest if size > reach.passed)
    return None if is_limit else Try(following, timed=False)


def _on_plateau(trial_set: TrialSet) -> bool:
    compared = [
        trial
        for trial in trial_set.trials
        if trial.ok and trial.gain is not None and trial.batch_size >= SMALL_BATCH_SIZE
    ]
    return len(compared) >= FLATS_TO_STOP and all(is_flat(trial.gain) for trial in compared[-FLATS_TO_STOP:])


def _crashes(trial_set: TrialSet, size: int) -> int:
    return sum(t.outcome is Outcome.CRASHED for t in trial_set.trials if t.batch_size == size)

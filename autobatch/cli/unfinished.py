"""The answer of a search that ended too early: decided on the trials in its journal."""

from __future__ import annotations

from dataclasses import replace

from autobatch.decision.recommender import recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.records.errors import SavedResultError
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Ceiling, Curve, LimitedBy
from autobatch.storage.journal import UnfinishedSearch

WARNING = "the search was interrupted, or still runs: only the sizes shown were measured"


def decide_unfinished(unfinished: UnfinishedSearch) -> Recommendation:
    """Recommend a batch size from the trials so far, with a warning that there should be more.

    Raises SavedResultError, with the trials, if no size has passed.
    """
    largest = TrialSet(unfinished.trials).largest_passed
    if largest is None:
        error = SavedResultError(
            "the last search was interrupted before any batch size passed",
            code="nothing_passed",
            facts=tuple(
                f"batch size {trial.batch_size}: {trial.outcome.replace('_', ' ')}"
                for trial in unfinished.trials[:5]
            ),
            hint="probe again",
        )
        error.trials = unfinished.trials
        raise error
    ceiling = Ceiling(
        batch_size=largest, limited_by=LimitedBy.BUDGET, verified=False, detail="the search was interrupted"
    )
    curve = Curve(
        trials=unfinished.trials,
        ceiling=ceiling,
        workload=unfinished.workload,
        device=unfinished.device,
        warnings=(WARNING,),
        world_size=unfinished.world_size,
    )
    return replace(recommend(curve, None, unfinished.limits), environment=unfinished.environment)

"""The last batch of an epoch at the recommended size, tried where it may fail: it is often a small one."""

from __future__ import annotations

from dataclasses import replace

from autobatch.decision.recommender import recommend
from autobatch.decision.scaling import share_of_dataset
from autobatch.decision.trial_set import TrialSet
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement import diagnosis, trials
from autobatch.measurement.budget import Budget
from autobatch.records.check import Check
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, Outcome


def try_last_batch(
    engine: Engine, curve: Curve, check: Check | None, limits: Limits, budget: Budget
) -> Curve:
    """The curve with the trial of that batch, where it fails. A batch that passes changes nothing."""
    size = recommend(curve, check, limits).batch_size
    samples = curve.workload.last_batch(size, curve.world_size)
    if not _may_fail(samples, TrialSet.of(curve), limits):
        return curve
    try:
        tried = _tried_after(engine, size, samples, budget)
    except AutobatchError:
        # The session is over. Nothing else needs it.
        return curve
    if tried.outcome is not Outcome.FAILED:
        return curve
    share = share_of_dataset(curve.workload.dataset_size, curve.world_size)
    failed = trials.from_try(tried, tried.outcome, share)
    return replace(curve, trials=(*curve.trials, failed))


def _tried_after(engine: Engine, size: int, samples: int, budget: Budget) -> messages.Tried:
    """The try of a batch of `samples`. An error counts where it comes after steps of `size` alone too.

    Raises AutobatchError where the session does not start.
    """
    tried = engine.try_out(samples, budget.trial_seconds, FULL_STEPS)
    if not diagnosis.may_be_of_state(tried):
        return tried
    engine.renew()
    engine.try_out(size, budget.trial_seconds, FULL_STEPS)
    return engine.try_out(samples, budget.trial_seconds, FULL_STEPS)


def _may_fail(samples: int, trial_set: TrialSet, limits: Limits) -> bool:
    """True for a size that was not tried, below those that pass, between failures, or out of step."""
    if samples == 0 or samples in trial_set.latest:
        return False
    failures = [trial for trial in trial_set.trials if trial.outcome is Outcome.FAILED]
    smallest = trial_set.passed[0].batch_size
    return samples < smallest or samples % limits.unit != 0 or bool(failures)

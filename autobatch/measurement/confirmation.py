"""The recommended size, once more in a fresh process: full steps, an evaluation, the largest samples."""

from __future__ import annotations

from dataclasses import replace

from autobatch.decision.recommender import recommend
from autobatch.decision.scaling import share_of_dataset
from autobatch.decision.trial_set import TrialSet
from autobatch.engines.base import Engine
from autobatch.engines.messages import FULL_STEPS
from autobatch.measurement import trials
from autobatch.records.check import Check
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial


def confirm(engine: Engine, curve: Curve, check: Check | None, limits: Limits) -> Curve:
    """The curve with the trial of its recommended size confirmed; one that fails makes room for the next.

    Where it can't be told (the worker does not start again, or every size fails by now), a warning says so.
    """
    while True:
        size = recommend(curve, check, limits).batch_size
        known = TrialSet.of(curve).latest[size]
        if known.confirmed:
            return curve
        try:
            engine.renew()
            tried = engine.try_out(size, limits.trial_timeout_seconds, FULL_STEPS)
        except AutobatchError as error:
            return _doubted(curve, size, error.message)
        if tried.outcome is Outcome.OK:
            return _with(curve, replace(known, confirmed=True))
        share = share_of_dataset(curve.workload.dataset_size, curve.world_size)
        again = trials.from_try(tried, tried.outcome, share)
        rest = (*curve.trials, again)
        left = TrialSet(rest).largest_passed
        if left is None:
            return _doubted(curve, size, tried.detail)
        curve = replace(curve, trials=rest, ceiling=_lowered(curve.ceiling, left, again))


def _with(curve: Curve, trial: Trial) -> Curve:
    """The curve with `trial` in the place of the last one of its size."""
    place = max(number for number, one in enumerate(curve.trials) if one.batch_size == trial.batch_size)
    return replace(curve, trials=(*curve.trials[:place], trial, *curve.trials[place + 1 :]))


def _lowered(ceiling: Ceiling, left: int, failed: Trial) -> Ceiling:
    if left >= ceiling.batch_size:
        return ceiling
    by_memory = failed.outcome is Outcome.OUT_OF_MEMORY
    reason = LimitedBy.MEMORY if by_memory else LimitedBy.SIZE_LIMIT
    return Ceiling(batch_size=left, limited_by=reason, verified=False, detail=failed.detail)


def _doubted(curve: Curve, size: int, why: str) -> Curve:
    doubt = f"batch size {size:,} was not confirmed in a fresh process: {why}"
    return replace(curve, warnings=(*curve.warnings, doubt))

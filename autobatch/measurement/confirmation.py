"""The recommended size, tried again in a fresh process: full steps, an evaluation, the largest samples."""

from __future__ import annotations

from dataclasses import replace

from autobatch.decision.recommender import recommend
from autobatch.decision.scaling import share_of_dataset
from autobatch.decision.trial_set import TrialSet
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.engines.messages import CONFIRM_STEPS
from autobatch.measurement import diagnosis, trials
from autobatch.measurement.budget import Budget
from autobatch.records.check import Check
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial


def confirm(engine: Engine, curve: Curve, check: Check | None, limits: Limits, budget: Budget) -> Curve:
    """The curve with the trial of its recommended size confirmed; a size that fails makes room for the next.

    A warning says so where no size can be confirmed: the budget is over, the worker does not start again, or
    every size fails.
    """
    while True:
        size = recommend(curve, check, limits).batch_size
        trial = TrialSet.of(curve).latest[size]
        if trial.confirmed:
            return curve
        if not budget.allows(engine.start_seconds):
            return _with_warning(curve, size, "the budget ended before")
        try:
            engine.renew()
            tried = diagnosis.checked(engine.try_out(size, budget.overrun_seconds, CONFIRM_STEPS))
        except AutobatchError as error:
            return _with_warning(curve, size, error.message)
        if tried.outcome is Outcome.OK:
            return _with_confirmed(curve, replace(trial, confirmed=True), tried)
        share = share_of_dataset(curve.workload.dataset_size, curve.world_size)
        failed = trials.from_try(tried, tried.outcome, share)
        trial_set = TrialSet.of(curve).extended([failed])
        if trial_set.largest_passed is None:
            return _with_warning(curve, size, tried.detail)
        ceiling = _lowered(curve.ceiling, trial_set.largest_passed, failed)
        curve = replace(curve, trials=trial_set.trials, ceiling=ceiling)


def _with_confirmed(curve: Curve, confirmed: Trial, tried: messages.Tried) -> Curve:
    """The curve with `confirmed` in place of the last trial of its size, and a warning for growing memory."""
    epochs, limit_bytes = curve.workload.epochs, curve.device.limit_bytes
    # The peak of the climb may hold what earlier steps have left.
    fresh = replace(confirmed, peak_bytes=tried.peak_bytes)
    warning = diagnosis.growing_memory(fresh, tried.grown_bytes or 0, limit_bytes, epochs)
    warnings = curve.warnings
    if warning:
        # The recommended size takes the place of others that were tried for long.
        warnings = (*(text for text in warnings if not text.startswith(diagnosis.GROWING)), warning)
    return replace(curve, trials=TrialSet.of(curve).with_latest([confirmed]).trials, warnings=warnings)


def _lowered(ceiling: Ceiling, largest_passed: int, failed: Trial) -> Ceiling:
    if largest_passed >= ceiling.batch_size:
        return ceiling
    by_memory = failed.outcome is Outcome.OUT_OF_MEMORY
    reason = LimitedBy.MEMORY if by_memory else LimitedBy.SIZE_LIMIT
    return Ceiling(batch_size=largest_passed, limited_by=reason, verified=False, detail=failed.detail)


def _with_warning(curve: Curve, size: int, reason: str) -> Curve:
    warning = f"batch size {size:,} was not confirmed in a fresh process: {reason}"
    return replace(curve, warnings=(*curve.warnings, warning))

"""The kind of loss, measured at sizes that are allowed and fit, in a small part of the time left."""

from __future__ import annotations

from autobatch.decision.constants import STAGE_SHARE, USUAL_BATCH_SIZE
from autobatch.decision.trial_set import TrialSet
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.measurement.budget import Budget
from autobatch.records.check import Check, CheckStatus, LossKind
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve


def measure_loss_kind(engine: Engine, trial_set: TrialSet, limits: Limits, budget: Budget) -> LossKind:
    """The kind of loss; unknown where no usable size is twice an allowed one, or the loop hides the loss."""
    largest = max((trial.batch_size for trial in trial_set.usable), default=0)
    half_size = _half_size(largest, limits)
    if half_size < limits.smallest:
        return LossKind.UNKNOWN
    command = messages.MeasureLossKind(
        half_size=half_size,
        most_samples=largest,
        seconds=STAGE_SHARE * max(0.0, budget.left_seconds),
        seed=limits.seed,
    )
    return engine.measure_loss_kind(command).kind


def dependent_loss(engine: Engine, curve: Curve, limits: Limits, budget: Budget) -> Check | None:
    """The record of a loss that depends on the batch, without a check; None for other losses.

    It is measured where gradients are accumulated: nothing else depends on it without a check.
    """
    accumulates = limits.global_batch is not None or curve.workload.accumulation_steps > 1
    if not accumulates or curve.workload.synthetic or budget.left_seconds <= engine.start_seconds:
        return None
    kind = measure_loss_kind(engine, TrialSet.of(curve), limits, budget)
    if kind is not LossKind.BATCH_DEPENDENT:
        return None
    detail = "the loss depends on the rest of the batch"
    return Check(status=CheckStatus.NOT_RUN, detail=detail, loss_kind=kind)


def _half_size(largest: int, limits: Limits) -> int:
    """An allowed size near half of the usual one; smaller where twice as many samples do not fit.

    Contrastive losses change the most from a small batch to twice as many samples.
    """
    wanted = max(limits.smallest, USUAL_BATCH_SIZE // 2)
    fitting = min(-(-wanted // limits.unit) * limits.unit, largest // 2)
    return fitting // limits.unit * limits.unit

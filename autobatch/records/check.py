"""The generalization check: short trainings, evaluations, vetoes and what they amount to."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.str_enum import StrEnum
from autobatch.records.trial import Outcome


class LossKind(StrEnum):
    """How the loss of a batch follows from its samples.

    `mean`: of their losses, with equal weights or not. `sum`: of their losses, so that the gradient grows
    with the batch. `batch_dependent`: the loss of a sample depends on the others in the batch, as contrastive
    losses do. `unknown`: it was not measured, or hidden.
    """

    MEAN = "mean"
    SUM = "sum"
    BATCH_DEPENDENT = "batch_dependent"
    UNKNOWN = "unknown"


class CheckStatus(StrEnum):
    """How far the generalization check went.

    `passed` and `vetoed`: short trainings ran, and no size or some size trained worse than the current one.
    `noise_only`: the answer comes from the gradient's noise scale alone. `not_run`: there is no result.
    """

    PASSED = "passed"
    VETOED = "vetoed"
    NOISE_ONLY = "noise_only"
    NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The loss on the samples held out, after `steps` training steps that took `seconds`.

    `losses`: the mean loss of each part of them; the parts are of equal size, and the same in every training.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A short training of the check, from the same first weights and samples as the others.

    Every learning rate of the user's was multiplied by `learning_rate_factor`. A failure is data: an
    outcome and a detail.
    """

    batch_size: int
    learning_rate_factor: float
    outcome: Outcome
    steps: int
    seconds: float
    evaluations: tuple[Evaluation, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePoint:
    """The gradient noise scale, with its 90% lower bound, after so many samples of a training.

    A lower bound of 0 says nothing.
    """

    samples_seen: float
    batch_size: float
    low: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Veto:
    """A size that trained worse than the current one, also with half its learning rate, or failed."""

    batch_size: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The generalization check: the cost of a larger batch in statistical efficiency.

    `detail` gives the reason where the check stopped early. `noise_scale` (the last measurement) and
    `critical_batch_size` are in samples of an optimizer step, over all ranks; other sizes are per rank.
    `interval` is the 90% interval of the critical batch size, its upper end None where it is open; `log_sd`
    is the standard deviation of its logarithm. All three use the trainings, and are None without a result.
    `noise_points` are the valid measurements along the burn-in, ascending, over all ranks.
    `batch_size` is the reference of the trainings: the current size, or the nearest usable size where that
    is unknown or does not fit. `held_out` says which samples the trainings were judged on. For a `loss_kind`
    that depends on the batch, the noise law does not hold, and there is no critical batch size.
    """

    status: CheckStatus
    detail: str = ""
    batch_size: int | None = None
    noise_scale: float | None = None
    critical_batch_size: float | None = None
    interval: tuple[float, float | None] | None = None
    log_sd: float | None = None
    noise_points: tuple[NoisePoint, ...] = ()
    held_out: str = ""
    trainings: tuple[Training, ...] = ()
    matched_loss: float | None = None
    vetoed: tuple[Veto, ...] = ()
    loss_kind: LossKind = LossKind.UNKNOWN

"""Builders of records for tests: each needs few arguments, and takes any field of its record by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from autobatch.records.check import Check, CheckStatus, Evaluation, Training
from autobatch.records.device import Device
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload


def trial(batch_size: int, step_seconds: float = 0.1, *, rounds: int = 3, **fields: Any) -> Trial:
    """A trial that passed, with equal rounds."""
    passed = Trial(
        batch_size=batch_size,
        outcome=Outcome.OK,
        step_seconds=(step_seconds,) * rounds,
        samples_per_second=batch_size / step_seconds if rounds else None,
    )
    return replace(passed, **fields)


def failed_trial(batch_size: int, outcome: Outcome = Outcome.OUT_OF_MEMORY, **fields: Any) -> Trial:
    return replace(Trial(batch_size=batch_size, outcome=outcome), **fields)


def affine_trials(hardware_batch_size: float, sizes: Iterable[int], seconds: float = 1e-3) -> list[Trial]:
    """Trials of t(B) = seconds (1 + B / hardware_batch_size)."""
    return [trial(size, seconds * (1 + size / hardware_batch_size)) for size in sizes]


def affine_law(hardware_batch_size: float, sizes: Sequence[int], seconds: float = 1e-3) -> StepTimeLaw:
    """The step-time model of t(B) = seconds (1 + B / hardware_batch_size)."""
    return fit_step_time(sizes, [(seconds * (1 + size / hardware_batch_size),) for size in sizes])


def ceiling(batch_size: int, limited_by: LimitedBy = LimitedBy.MEMORY, **fields: Any) -> Ceiling:
    return replace(Ceiling(batch_size=batch_size, limited_by=limited_by, verified=True), **fields)


def workload(**fields: Any) -> Workload:
    usual = Workload(target="model.py", model="Net", parameters=10, loss="mse_loss", optimizer="SGD")
    return replace(usual, **fields)


def device(**fields: Any) -> Device:
    return replace(Device(kind="cpu", index=0, name="a processor"), **fields)


def curve(trials: Sequence[Trial], **fields: Any) -> Curve:
    """A curve whose ceiling is the largest size that passed, unless it is given."""
    largest = max((trial.batch_size for trial in trials if trial.ok), default=1)
    measured = Curve(trials=tuple(trials), ceiling=ceiling(largest), workload=workload(), device=device())
    return replace(measured, **fields)


def critical_batch_size(batch_size: float, log_sd: float = 0.9) -> CriticalBatchSize:
    """A critical batch size with the 90% interval of a lognormal."""
    low, high = _interval(batch_size, log_sd)
    return CriticalBatchSize(batch_size=batch_size, low=low, high=high, log_sd=log_sd)


def check(critical: float, log_sd: float = 0.5, **fields: Any) -> Check:
    """A check by the noise scale alone; its reference size of 1 excludes no smaller size."""
    measured = Check(
        status=CheckStatus.NOISE_ONLY,
        batch_size=1,
        noise_scale=critical / 2,
        critical_batch_size=critical,
        interval=_interval(critical, log_sd),
        log_sd=log_sd,
    )
    return replace(measured, **fields)


def evaluated_at(steps: int) -> list[int]:
    """The steps after which a training is evaluated: 4, 5, 6, 8, 10, 12 ... and at its end."""
    at, made = 4, []
    while at < steps:
        made.append(at)
        at = max(at + 1, math.ceil(1.2 * at))
    return [*made, steps]


def training(
    batch_size: int,
    steps: int,
    losses: Callable[[int], Sequence[float]],
    *,
    step_seconds: float = 1.0,
    **fields: Any,
) -> Training:
    """A training that ended well. `losses` of the held-out parts, by the steps made."""
    ended = Training(
        batch_size=batch_size,
        learning_rate_factor=1.0,
        outcome=Outcome.OK,
        steps=steps,
        seconds=step_seconds * steps,
        evaluations=tuple(
            Evaluation(steps=at, seconds=step_seconds * at, losses=tuple(losses(at)))
            for at in evaluated_at(steps)
        ),
    )
    return replace(ended, **fields)


def failed_training(batch_size: int, outcome: Outcome = Outcome.DIVERGED, **fields: Any) -> Training:
    ended = Training(batch_size=batch_size, learning_rate_factor=1.0, outcome=outcome, steps=3, seconds=0.1)
    return replace(ended, **fields)


def loss_by_law(batch_size: int, critical: float, power: float = 0.5) -> Callable[[int], float]:
    """The loss after some steps, so that steps(loss) = S_min(loss) (1 + critical / batch_size)."""
    return lambda steps: (1 + steps / (1 + critical / batch_size) / 5) ** -power


def recommendation(batch_size: int, **fields: Any) -> Recommendation:
    """An answer whose batch size was the only trial; all else is empty unless given."""
    answer = Recommendation(
        batch_size=batch_size,
        accumulation_steps=1,
        world_size=1,
        global_batch_size=batch_size,
        learning_rate=None,
        ceiling=ceiling(4096),
        trials=(trial(batch_size),),
        check=None,
        why="",
        warnings=(),
        workload=workload(),
        device=device(),
    )
    return replace(answer, **fields)


def _interval(centre: float, log_sd: float) -> tuple[float, float]:
    reach = math.exp(1.645 * log_sd)
    return centre / reach, centre * reach

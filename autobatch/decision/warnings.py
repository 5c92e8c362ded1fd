"""Pure: the schedule restated for a new batch size, and the warnings that follow from an answer."""

from __future__ import annotations

from math import ceil, floor, log10

from autobatch.decision import critical_batch
from autobatch.decision.constants import (
    FEW_STEPS,
    FEWEST_STEPS_AN_EPOCH,
    MANY_TIMES_THE_SAMPLES,
    TOLERANCE,
    UNSTEADY,
)
from autobatch.decision.scaling import per_rank
from autobatch.decision.time_to_loss import matched_in
from autobatch.records.check import CheckStatus
from autobatch.records.formatting import format_rate, format_short_duration
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Loader
from autobatch.records.workload import StepCount, Workload


def restated_schedule(workload: Workload, batch_size: int) -> tuple[StepCount, ...]:
    """The schedule in steps of `batch_size` samples of a rank: as many samples as before."""
    if workload.batch_size is None or workload.batch_size == batch_size:
        return ()
    share = workload.batch_size / batch_size
    return tuple(
        StepCount(name=part.name, steps=max(1, round(part.steps * share))) for part in workload.schedule
    )


def warnings_about(answer: Recommendation) -> list[str]:
    """The warnings that follow from an answer and its measurements."""
    return [
        *_few_steps(answer),
        *_changed_decays(answer),
        *_learning_rate(answer),
        *_loading(answer),
        *_smaller_by_noise(answer),
        *_synthetic(answer),
        *_unsteady(answer),
    ]


def _synthetic(answer: Recommendation) -> list[str]:
    if not answer.workload.synthetic:
        return []
    return ["memory and speed only: the inputs are random numbers, so nothing is known about learning"]


def _unsteady(answer: Recommendation) -> list[str]:
    interval = answer.chosen.samples_per_second_interval
    if interval is None or interval[1] <= UNSTEADY * interval[0]:
        return []
    return [f"the step time at {answer.batch_size:,} varied a lot; measure again on a quiet machine"]


def _smaller_by_noise(answer: Recommendation) -> list[str]:
    """Warn where the noise scale alone favours a smaller size: that takes trainings to believe."""
    check = answer.check
    if check is None or check.status is not CheckStatus.NOISE_ONLY or answer.limits.asks_for_size:
        return []
    smaller = [row for row in answer.candidates if row.batch_size < answer.batch_size]
    best = min(smaller, key=lambda row: row.relative_time, default=None)
    if best is None or best.relative_time > 1 - TOLERANCE:
        return []
    return [
        f"by the gradient's noise alone {best.batch_size:,} would be quicker, but early in a training the "
        "noise is too low to go down by: a longer `--budget` leaves time for trainings that compare"
    ]


def _loading(answer: Recommendation) -> list[str]:
    """Warn where loading is the bottleneck and no measured number of workers changes that."""
    loader = answer.loader
    if loader is None or loader.sufficient_workers is not None:
        return []
    if not loader.timings:
        return _unmeasured_loading(answer, loader)
    paces = {timing.workers: pace for timing in loader.timings if (pace := loader.pace_seconds(timing))}
    failed = [
        f"a DataLoader with {_workers(timing.workers)} gave no batches: {timing.detail}"
        for timing in loader.timings
        if timing.batch_seconds is None
    ]
    if not paces:
        return failed
    best = min(paces, key=paces.__getitem__)
    rate = format_rate(loader.batch_size / paces[best])
    tried = ", ".join(map(str, sorted(paces)))
    text = f"loading sets the pace: with {_workers(best)}, the best of {tried}, expect {rate} samples/s "
    text += f"at batch size {loader.batch_size:,}"
    if answer.workload.dataset_size is not None:
        steps = ceil(answer.workload.dataset_size / loader.batch_size)
        text += f" and {format_short_duration(steps * paces[best])} an epoch"
    return [text, *failed]


def _unmeasured_loading(answer: Recommendation, loader: Loader) -> list[str]:
    """Warn where loading took longer than a step and no DataLoader was timed."""
    trial = next(t for t in reversed(answer.trials) if t.ok and t.batch_size == loader.batch_size)
    if trial.load_seconds is None or trial.load_seconds <= loader.step_seconds:
        return []
    load, step = format_short_duration(trial.load_seconds), format_short_duration(loader.step_seconds)
    return [
        f"loading a batch of {loader.batch_size:,} takes one process {load}, its step {step}: with too few "
        "DataLoader workers loading sets the pace, and the budget left no time to measure that"
    ]


def _workers(count: int) -> str:
    return f"{count:,} worker{'' if count == 1 else 's'}"


def _few_steps(answer: Recommendation) -> list[str]:
    """Warn where the epochs hold too few steps for the measured loss, or an epoch holds few steps."""
    size, batch = answer.workload.dataset_size, answer.global_batch_size
    if size is None:
        return []
    epochs, matched = answer.workload.epochs, None
    check = None if answer.check is None else per_rank(answer.check, answer.world_size)
    if check is not None:
        matched = matched_in(check)
    if epochs and matched and check and check.critical_batch_size:
        minimum = critical_batch.minimum_steps(matched.steps, check.critical_batch_size)
        if critical_batch.leaves_few_steps(epochs, size, batch, minimum):
            return [
                f"{epochs:g} epochs at {batch:,} are only {epochs * size / batch:,.0f} steps, and the loss "
                f"{matched.loss:.3g} alone takes {minimum:,.0f} at any batch size: train for at least "
                f"{ceil(FEW_STEPS * minimum * batch / size):,} epochs, or use a smaller size"
            ]
    if batch * FEWEST_STEPS_AN_EPOCH <= size:
        return []
    return [f"only {-(-size // batch):,} steps an epoch: train for more epochs, or use a smaller size"]


def _changed_decays(answer: Recommendation) -> list[str]:
    current, batch = answer.workload.batch_size, answer.global_batch_size
    before = (current or batch) * answer.world_size
    if current is None or max(before, batch) < MANY_TIMES_THE_SAMPLES * min(before, batch):
        return []
    times = f"{batch / before:g} times as many" if batch > before else f"1/{before / batch:g} of the"
    kept = {d: critical_batch.kept_half_life(d.value, before, batch) for d in answer.workload.decays}
    return [
        f"{decay.name} {decay.value:g} averages over {times} samples at {batch:,} as at {before:,}; "
        f"{_decay(value)} would keep its half-life in samples"
        for decay, value in kept.items()
    ]


def _decay(value: float) -> str:
    """A decay with two significant digits; from 0.5 up, two significant digits of 1 - decay."""
    if value < 0.5:
        return f"{value:.2g}"
    decimals = 1 - floor(log10(1 - value)) if value < 1 else 2
    return f"{value:.{decimals}f}".rstrip("0")


def _derived_rate(answer: Recommendation, learning_rate: float) -> str:
    """Warn where the user's code scales its rate with the batch size, so that it must not be scaled again."""
    workload, size = answer.workload, answer.global_batch_size
    before = (workload.batch_size or answer.batch_size) * answer.world_size
    own = (workload.learning_rate or 0.0) * (size / before) ** workload.learning_rate_power
    return (
        f"your code derives the learning rate from the batch size, {own:.3g} at {size:,}: "
        f"set it so that {learning_rate:.3g} comes out, and don't scale it twice"
    )


def _learning_rate(answer: Recommendation) -> list[str]:
    """Warn where no rule gives the learning rate, or the current batch size is a guess."""
    check, workload = answer.check, answer.workload
    if check is None or check.critical_batch_size is None or check.batch_size is None:
        return []
    meant_for = (workload.batch_size or check.batch_size) * answer.world_size
    if answer.global_batch_size == meant_for:
        return []
    if workload.learning_rate_power and answer.learning_rate is not None:
        return [_derived_rate(answer, answer.learning_rate)]
    if critical_batch.learning_rate_power(workload.optimizer) is None:
        return [
            f"no rule is known for how {workload.optimizer}'s learning rate follows the batch size: "
            "tune it for the new one"
        ]
    if workload.batch_size is None:
        return [
            f"no present batch size is known: the learning rate is taken as meant for {meant_for:,}; "
            "name yours with `batch_size`"
        ]
    return []

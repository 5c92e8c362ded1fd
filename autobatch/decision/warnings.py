"""Pure: the schedule restated for a new batch size, and the warnings that follow from an answer."""

from __future__ import annotations

from math import ceil, exp, floor, log10

from autobatch.decision import critical_batch
from autobatch.decision.confidence import unconfirmed_departure
from autobatch.decision.constants import (
    FEWEST_STEPS_AN_EPOCH,
    MANY_TIMES_THE_SAMPLES,
    TOLERANCE,
    UNSTEADY,
    USUAL_BATCH_SIZE,
)
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import CheckStatus, LossKind
from autobatch.records.formatting import format_rate, format_short_duration
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Loader, Outcome
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
        *_last_batch(answer),
        *_unchecked(answer),
        *_dependent_loss(answer),
        *_few_steps(answer),
        *_changed_decays(answer),
        *_learning_rate(answer),
        *_summed_loss(answer),
        *_loading(answer),
        *_smaller_by_noise(answer),
        *_synthetic(answer),
        *_unsteady(answer),
        *_unlike_its_neighbours(answer),
    ]


def _last_batch(answer: Recommendation) -> list[str]:
    """Warn where an epoch ends with a smaller batch at which training fails."""
    samples = answer.workload.last_batch(answer.batch_size, answer.world_size)
    trial = next((t for t in reversed(answer.trials) if t.batch_size == samples), None)
    if trial is None or trial.outcome is not Outcome.FAILED:
        return []
    count = "1 sample" if samples == 1 else f"{samples:,} samples"
    return [
        f"at {answer.batch_size:,} the last batch of an epoch has {count}, and training fails there "
        f"({trial.detail}): set `drop_last=True` in the DataLoader"
    ]


def _unchecked(answer: Recommendation) -> list[str]:
    """Warn where a larger size than the current one comes from throughput alone, though it need not."""
    check, current, size = answer.check, answer.workload.batch_size, answer.batch_size
    if check is None or check.status is not CheckStatus.NOT_RUN or answer.limits.asks_for_size:
        return []
    if current is None or size <= current or answer.workload.synthetic:
        return []
    return [
        f"no training was compared: at {size:,} the model may end at a higher loss than at {current:,}. "
        f"Train at both, or keep {current:,}"
    ]


def _dependent_loss(answer: Recommendation) -> list[str]:
    """Warn where accumulation is no larger batch, and name the batch of the loss and that of the memory."""
    if answer.check is None or answer.check.loss_kind is not LossKind.BATCH_DEPENDENT:
        return []
    asked = answer.limits.global_batch
    loss_batch = answer.batch_size if asked is None else max(answer.batch_size, asked // answer.world_size)
    micro_batch = answer.ceiling.batch_size
    text = "the loss depends on the rest of the batch, so accumulated batches are not a larger one"
    if loss_batch > micro_batch:
        action = (
            f"for a loss over {loss_batch:,} samples, use a cached contrastive loss with micro batches of "
        )
        return [f"{text}: {action}{micro_batch:,}, the largest size that passed"]
    action = f"keep {loss_batch:,} for the loss; the largest size that passed, for micro batches, is "
    return [f"{text}: {action}{micro_batch:,}"]


def _summed_loss(answer: Recommendation) -> list[str]:
    """Warn where the learning rate of a sum has to follow the batch size, and the weight decay too.

    SGD adds the decay to the gradient, which is B times that of the mean: lr_mean / B (B g + decay w).
    """
    correction = _sum_correction(answer, critical_batch.learning_rate_power(answer.workload.optimizer))
    if correction == 1 or answer.learning_rate_factor is None:
        return []
    ratio, factor = 1 / correction, answer.learning_rate_factor
    larger = f"at {answer.batch_size:,} its gradient is {ratio:.3g}x as large"
    action = f"multiply your learning rate by {factor:.3g} and a weight decay by {ratio:.3g}"
    return [f"the loss is a sum over the batch: {larger}, so {action}"]


def _synthetic(answer: Recommendation) -> list[str]:
    if not answer.workload.synthetic:
        return []
    return ["memory and speed only: the inputs are random numbers, so nothing is known about learning"]


def _unsteady(answer: Recommendation) -> list[str]:
    interval = answer.chosen.samples_per_second_interval
    if interval is None or interval[1] <= UNSTEADY * interval[0]:
        return []
    return [f"timings at batch size {answer.batch_size:,} vary a lot: rerun on an idle machine"]


def _unlike_its_neighbours(answer: Recommendation) -> list[str]:
    """Warn where few rounds at the current size, the answer or a safe size contradict the other sizes."""
    trials = TrialSet.of(answer.curve)
    law, current = trials.step_time, trials.nearest(answer.workload.micro_batch_size or USUAL_BATCH_SIZE)
    if law is None or current is None:
        return []
    judged = {answer.batch_size, *(row.batch_size for row in answer.same_epochs if row.safe)}
    departures = {
        trial: unconfirmed_departure(current, trial, law)
        for trial in trials.timed
        if trial.batch_size in judged
    }
    other = max(departures, key=lambda trial: abs(departures[trial]), default=current)
    if exp(abs(departures.get(other, 0.0))) <= UNSTEADY:
        return []
    sizes = [size for size in (current.batch_size, other.batch_size) if size in law.sizes]
    size = max(sizes, key=lambda each: abs(law.correction_at(each)))
    ratio = exp(law.correction_at(size))
    return [
        f"a step at batch size {size:,} took {ratio:.3g}x as long as other sizes predict, in too few rounds "
        "to be sure: rerun on an idle machine, or raise `--budget`"
    ]


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
        f"the gradient noise alone favours {best.batch_size:,}, but it is too low early in a training: raise "
        "`--budget`, so that short trainings can compare them"
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
    text = f"loading is the bottleneck: {_best_of(best, sorted(paces))}, with {rate} samples/s at batch size "
    text += f"{loader.batch_size:,}"
    if answer.workload.dataset_size is not None:
        steps = ceil(answer.workload.dataset_size / loader.batch_size)
        text += f" ({format_short_duration(steps * paces[best])} an epoch)"
    return [f"{text}: speed up the data set", *failed]


def _best_of(best: int, tried: list[int]) -> str:
    if len(tried) == 1:
        return f"it has {_workers(best)}"
    return f"the best of {', '.join(map(str, tried))} workers is {best:,}"


def _unmeasured_loading(answer: Recommendation, loader: Loader) -> list[str]:
    """Warn where loading took longer than a step and no DataLoader was timed."""
    trials = (t for t in reversed(answer.trials) if t.ok and t.batch_size == loader.batch_size)
    trial = next(trials, None)
    if trial is None or trial.load_seconds is None or trial.load_seconds <= loader.step_seconds:
        return []
    load, step = format_short_duration(trial.load_seconds), format_short_duration(loader.step_seconds)
    return [
        f"loading may be the bottleneck: a batch of {loader.batch_size:,} takes one process {load}, its step "
        f"{step}: add DataLoader workers, or raise `--budget` to have them measured"
    ]


def _workers(count: int) -> str:
    return f"{count:,} worker{'' if count == 1 else 's'}"


def _few_steps(answer: Recommendation) -> list[str]:
    """Warn where an epoch holds few steps.

    A decision that has judged the final loss at the same epochs says more than the number of steps.
    """
    size, batch = answer.workload.dataset_size, answer.global_batch_size
    if size is None or any(row.harm is not None for row in answer.same_epochs):
        return []
    if batch * FEWEST_STEPS_AN_EPOCH <= size:
        return []
    steps = f"{-(-size // batch):,} step{'' if batch >= size else 's'}"
    return [f"at {batch:,} an epoch has only {steps}: train for more epochs, or use a smaller size"]


def _changed_decays(answer: Recommendation) -> list[str]:
    current, batch = answer.workload.batch_size, answer.global_batch_size
    before = (current or batch) * answer.world_size
    if current is None or max(before, batch) < MANY_TIMES_THE_SAMPLES * min(before, batch):
        return []
    kept = {
        decay: critical_batch.kept_half_life(decay.value, before, batch)
        for decay in answer.workload.decays
        if decay.value > 0
    }
    return [
        f"optional: set {decay.name}={_decay(value)} at {batch:,}, which keeps the half-life of "
        f"{decay.value:g} in samples"
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
            _rules_apart(answer, meant_for, check.critical_batch_size)
            or f"the learning rate of {workload.optimizer} follows no known rule: tune it for the new size"
        ]
    if workload.batch_size is None:
        return [
            f"the current batch size is unknown: the learning rate is taken to belong to {meant_for:,}; set "
            "`batch_size`"
        ]
    return []


def _rules_apart(answer: Recommendation, current: int, critical: float) -> str:
    """The rule of each optimizer, where all have one and they differ; empty where they don't."""
    kinds = dict.fromkeys(answer.workload.optimizer.split(" and "))
    powers = {kind: critical_batch.learning_rate_power(kind) for kind in kinds}
    factors = {
        kind: critical_batch.scaled_learning_rate(1.0, current, answer.global_batch_size, critical, power)
        * _sum_correction(answer, power)
        for kind, power in powers.items()
        if power is not None
    }
    if len(factors) < max(len(powers), 2):
        return ""
    each = " and ".join(f"{kind}'s by {factor:.3g}" for kind, factor in factors.items())
    return f"the learning rates of {answer.workload.optimizer} follow different rules: multiply {each}"


def _sum_correction(answer: Recommendation, power: float | None) -> float:
    """The correction of a learning rate for a loss that is a sum; 1 for another."""
    check = answer.check
    current = answer.workload.batch_size or (None if check is None else check.batch_size)
    if check is None or current is None:
        return 1.0
    return critical_batch.sum_correction(check.loss_kind, power, current, answer.batch_size)

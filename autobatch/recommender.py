"""Pure: a curve and limits in, one batch size with its reasons out. Can be run again on a saved curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, inf
from statistics import median

from autobatch import law as law_of_time
from autobatch import search
from autobatch.noise import CriticalBatchSize
from autobatch.records import Candidate, Check, Curve, Limits, Objective, Recommendation, Trial, Workload
from autobatch.steptime import StepTimeLaw, fit_step_time
from autobatch.timing import MIN_ROUNDS

# Sizes within 5% of the best throughput count as equally quick: the smallest of them is the knee.
TOLERANCE = 0.05
# How the learning rate follows the batch size's gain, by optimizer; for others there is no rule.
_LEARNING_RATE_POWERS = {
    "SGD": 1.0,
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam"), 0.5),
}


def recommend(curve: Curve, check: Check | None = None, limits: Limits | None = None) -> Recommendation:
    """The batch size to train with, always one that was measured and passed.

    With a check it is the size with the shortest expected time to the same loss, (1 + B_crit / B) t(B); the
    user's own size where that is within 10% of it. Without one the choice comes from the throughput curve
    alone: its knee, the smallest size within 5% of the best throughput. A target (`global_batch`) is met
    exactly, by accumulation where it does not fit at once.
    """
    limits = limits or Limits()
    latest = search.latest(curve.trials).values()
    passed = [trial for trial in latest if trial.ok and trial.batch_size <= curve.ceiling.batch_size]
    warnings = list(curve.warnings)
    if limits.global_batch is not None:
        chosen, why = _for_target(passed, limits.global_batch, warnings)
    elif limits.objective is Objective.MEMORY:
        chosen, why = _largest(passed)
    elif limits.objective is Objective.THROUGHPUT:
        chosen, why = _quickest(passed)
    elif check is not None and check.critical_batch_size is not None:
        chosen, why = _soonest(passed, check, curve.workload.batch_size)
    else:
        chosen, why = _knee(passed)
    accumulation = 1
    if limits.global_batch is not None and limits.global_batch % chosen.batch_size == 0:
        accumulation = limits.global_batch // chosen.batch_size
    warnings += _doubts(chosen, curve, accumulation)
    return Recommendation(
        batch_size=chosen.batch_size,
        accumulation_steps=accumulation,
        world_size=1,
        global_batch_size=chosen.batch_size * accumulation,
        learning_rate=_learning_rate(curve.workload, check, chosen.batch_size * accumulation),
        ceiling=curve.ceiling,
        trials=curve.trials,
        check=_with_candidates(check, passed, chosen),
        why=why,
        warnings=tuple(warnings),
        workload=curve.workload,
        device=curve.device,
        limits=limits,
    )


def _soonest(passed: Sequence[Trial], check: Check, own_size: int | None) -> tuple[Trial, str]:
    timed = _timed(passed)
    times = _expected_times(timed, check)
    law = _law(timed)
    choice = law_of_time.pick(sorted(times), _belief(check), law, own_size=own_size)
    chosen = next(trial for trial in timed if trial.batch_size == choice.batch_size)
    ratios = {size: time / times[choice.batch_size] for size, time in times.items()}
    if choice.batch_size == own_size and choice.best != own_size:
        return chosen, (
            f"your present size is within {choice.tie:.0%} of the shortest expected time to the same loss "
            f"(1.00 against {ratios[choice.best]:.2f} at {choice.best:,})"
        )
    others = sorted((size for size in ratios if size != choice.batch_size), key=ratios.__getitem__)[:1]
    others += [size for size in (own_size, max(ratios)) if size in ratios and size != choice.batch_size]
    against = " and ".join(f"{ratios[size]:.2f} at {size:,}" for size in dict.fromkeys(others) if size)
    return chosen, "shortest expected time to the same loss" + (
        f": 1.00 against {against}" if against else ""
    )


def _with_candidates(check: Check | None, passed: Sequence[Trial], chosen: Trial) -> Check | None:
    """The check with the expected time at every size that was timed, in units of that at the chosen one."""
    if check is None or check.critical_batch_size is None:
        return check
    times = _expected_times([*_timed(passed), chosen], check)
    found = [
        Candidate(batch_size=s, relative_time=t / times[chosen.batch_size]) for s, t in sorted(times.items())
    ]
    return replace(check, candidates=tuple(found))


def _expected_times(timed: Sequence[Trial], check: Check) -> dict[int, float]:
    law, belief = _law(timed), _belief(check)
    return {t.batch_size: exp(law_of_time.expected_log_time(t.batch_size, belief, law)) for t in timed}


def _law(timed: Sequence[Trial]) -> StepTimeLaw:
    steps = {trial.batch_size: trial.step_seconds for trial in timed}
    return fit_step_time(list(steps), list(steps.values()))


def _belief(check: Check) -> law_of_time.Belief:
    assert check.critical_batch_size is not None
    assert check.interval is not None
    assert check.log_sd is not None
    low, high = check.interval
    return law_of_time.posterior(
        CriticalBatchSize(
            batch_size=check.critical_batch_size,
            low=low,
            high=inf if high is None else high,
            log_sd=check.log_sd,
        )
    )


def _learning_rate(workload: Workload, check: Check | None, global_batch: int) -> float | None:
    """The present learning rate, scaled to the global batch by the noise rule; None without a basis."""
    power = _LEARNING_RATE_POWERS.get(workload.optimizer)
    rate, own = workload.learning_rate, workload.batch_size
    if check is None or check.critical_batch_size is None or power is None or rate is None or own is None:
        return None
    return law_of_time.scaled_learning_rate(rate, own, global_batch, check.critical_batch_size, power)


def _knee(passed: Sequence[Trial]) -> tuple[Trial, str]:
    passed = _timed(passed)
    best = max(passed, key=_rate)
    near = [trial for trial in passed if _rate(trial) >= (1 - TOLERANCE) * _rate(best)]
    chosen = min(near, key=lambda trial: trial.batch_size)
    if chosen is best:
        runner_up = max((t for t in passed if t is not best), key=_rate, default=None)
        if runner_up is None:
            return chosen, "the only size that was measured"
        lead = _rate(best) / _rate(runner_up)
        return chosen, f"the highest throughput: {lead:.2f} times that of {runner_up.batch_size:,}"
    share = _rate(chosen) / _rate(best)
    near_best = f"the smallest size within {TOLERANCE:.0%} of the best throughput"
    return chosen, f"{near_best}: {share:.1%} of that at {best.batch_size:,}"


def _quickest(passed: Sequence[Trial]) -> tuple[Trial, str]:
    return max(_timed(passed), key=_rate), "the highest throughput that was measured"


def _largest(passed: Sequence[Trial]) -> tuple[Trial, str]:
    return max(passed, key=lambda trial: trial.batch_size), "the largest size that fits, as asked for"


def _for_target(passed: Sequence[Trial], target: int, warnings: list[str]) -> tuple[Trial, str]:
    """The size that makes up the target: all of it at once if it fits, else the quickest of its divisors."""
    divisors = [trial for trial in passed if target % trial.batch_size == 0]
    if not divisors:
        chosen = max(passed, key=lambda trial: trial.batch_size)
        warnings.append(f"no size that was measured divides the global batch size {target:,}; it is not met")
        return chosen, "the largest size that was measured"
    best = max(divisors, key=_rate)
    near = [trial for trial in divisors if _rate(trial) >= (1 - TOLERANCE) * _rate(best)]
    chosen = max(
        [*near, *(t for t in divisors if t.batch_size == target)], key=lambda trial: trial.batch_size
    )
    if chosen.batch_size == target:
        return chosen, f"the global batch size {target:,} fits at once"
    return chosen, (
        f"the global batch size {target:,} does not fit at once; {chosen.batch_size:,} divides it "
        "and has the best throughput of the sizes that do"
    )


def _doubts(chosen: Trial, curve: Curve, accumulation: int) -> list[str]:
    doubts: list[str] = []
    size = curve.workload.dataset_size
    if size is not None and chosen.batch_size * accumulation * 10 > size:
        steps = -(-size // (chosen.batch_size * accumulation))
        doubts.append(f"only {steps:,} steps an epoch: train for more epochs, or use a smaller size")
    if curve.workload.synthetic:
        doubts.append(
            "memory and speed only: the inputs are random numbers, so nothing is known about learning"
        )
    interval = chosen.samples_per_second_interval
    if interval is not None and interval[1] > 1.5 * interval[0]:
        doubts.append(
            f"the step time at {chosen.batch_size:,} varied a lot; measure again on a quiet machine"
        )
    return doubts


def _timed(passed: Sequence[Trial]) -> Sequence[Trial]:
    """The sizes timed in rounds; a size that was only tried for memory has one rough figure."""
    return [trial for trial in passed if len(trial.step_seconds) >= MIN_ROUNDS] or passed


def _rate(trial: Trial) -> float:
    return trial.samples_per_second or trial.batch_size / median(trial.step_seconds)

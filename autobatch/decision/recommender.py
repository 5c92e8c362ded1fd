"""Pure: a curve and limits in, one batch size with its reasons out. Can be run again on a saved curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from autobatch.decision import (
    critical_batch,
    loss_curves,
    next_training,
    scaling,
    time_to_loss,
)
from autobatch.decision.round_statistics import timed
from autobatch.decision.time_to_loss import Outlook
from autobatch.decision.trial_set import TrialSet
from autobatch.decision.warnings import doubts, restated
from autobatch.records.check import Check
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import AnswerLimit, Recommendation, Scaling
from autobatch.records.trial import Curve, Outcome, Trial
from autobatch.records.workload import Workload

# Sizes within 5% of the best throughput count as equally quick: the smallest of them is the knee.
TOLERANCE = 0.05
_NONE_TIMED = "the largest size that passed: none was timed"


def recommend(curve: Curve, check: Check | None = None, limits: Limits | None = None) -> Recommendation:
    """The batch size to train with, always one that was measured and passed.

    With a check it is the size with the shortest expected time to the same loss, (1 + B_crit / B) t(B), or
    the middle of those that the noise of t(B) can't tell from it; the user's own size where that is within a
    tie of it; none that trained worse. Without one the choice comes from the throughput curve alone: its
    knee, the smallest size within 5% of the best throughput. A target (`global_batch`) is met exactly, by
    accumulation where it does not fit at once. With several ranks sizes are those of one rank, and what is
    said about learning is about the global batch (see autobatch.decision.scaling).
    """
    limits, ranks = limits or Limits(), curve.world_size
    target = scaling.limits_of_a_rank(limits, ranks).global_batch
    check = None if check is None else scaling.per_rank(check, ranks)
    passed = _passed(curve)
    warnings = list(curve.warnings)
    outlook = None
    if target is not None:
        chosen, why = _for_target(passed, target, ranks, warnings)
    elif limits.objective is Objective.MEMORY:
        chosen, why = _largest(passed)
    elif limits.objective is Objective.THROUGHPUT:
        chosen, why = _quickest(passed)
    else:
        allowed = _not_vetoed(passed, check)
        outlook = time_to_loss.outlook(passed, allowed, check, curve.workload.batch_size)
        chosen, why = _soonest(allowed, outlook) if outlook else _knee(allowed)
    accumulation = 1
    if target is not None and target % chosen.batch_size == 0:
        accumulation = target // chosen.batch_size
    of_a_rank = chosen.batch_size * accumulation
    factor = _learning_rate_factor(curve.workload, check, of_a_rank)
    rate = curve.workload.learning_rate
    answer = Recommendation(
        batch_size=chosen.batch_size,
        accumulation_steps=accumulation,
        world_size=ranks,
        global_batch_size=of_a_rank * ranks,
        learning_rate=None if factor is None or rate is None else factor * rate,
        learning_rate_factor=factor,
        ceiling=curve.ceiling,
        trials=curve.trials,
        check=_checked(time_to_loss.with_candidates(check, passed, chosen, curve.ceiling), ranks),
        why=why,
        warnings=(),
        limited_by=_limit(passed, chosen, curve, check, outlook) if target is None else None,
        step_time=time_to_loss.step_time(passed),
        tokens_per_second=_tokens_per_second(curve.workload, chosen),
        schedule=restated(curve.workload, of_a_rank),
        loader=curve.loader,
        communication=curve.communication,
        sizes_per_rank=curve.sizes_per_rank,
        workload=curve.workload,
        device=curve.device,
        limits=limits,
    )
    if outlook is not None:
        answer = replace(_compared(answer, outlook), scaling=_scaling(answer, outlook))
    return replace(answer, warnings=(*warnings, *doubts(answer, chosen)))


def _checked(check: Check | None, ranks: int) -> Check | None:
    return None if check is None else scaling.over_ranks(check, ranks)


def _scaling(answer: Recommendation, outlook: Outlook) -> Scaling | None:
    """What more devices or fewer would do; None where the cost of their communication is not known."""
    if answer.communication is None:
        return None
    ranks = answer.world_size
    return scaling.predict(
        tuple(outlook.times),
        answer.batch_size,
        ranks * outlook.critical,
        outlook.law,
        ranks,
        answer.communication,
        answer.workload,
    )


def _passed(curve: Curve) -> list[Trial]:
    return list(TrialSet.of(curve).usable)


def _tokens_per_second(workload: Workload, chosen: Trial) -> float | None:
    """Tokens of the samples themselves: what fills a batch up to its longest sample does not count."""
    tokens = None if workload.sizes is None else workload.sizes.tokens
    return None if tokens is None or not _rate(chosen) else tokens.mean * _rate(chosen)


def _not_vetoed(passed: Sequence[Trial], check: Check | None) -> list[Trial]:
    """The sizes that may be taken. Where the vetoes leave none, all of them may be."""
    if check is None or check.batch_size is None or not check.vetoed:
        return list(passed)
    sizes = tuple(trial.batch_size for trial in passed)
    left = next_training.without_vetoed(sizes, check.batch_size, check.vetoed)
    return [trial for trial in passed if trial.batch_size in left] or list(passed)


def _compared(answer: Recommendation, outlook: Outlook) -> Recommendation:
    """The answer beside the user's own size, the next best, and the best there could be."""
    current = answer.workload.batch_size
    return replace(
        answer,
        current=outlook.against(current, answer.batch_size) if current in outlook.times else None,
        runner_up=outlook.runner_up(answer.batch_size),
        regret_bound=outlook.regret_bound(answer.batch_size),
    )


def _limit(
    passed: Sequence[Trial], chosen: Trial, curve: Curve, check: Check | None, outlook: Outlook | None
) -> AnswerLimit | None:
    """What keeps the answer from being larger; nothing does where a larger size is as good."""
    if outlook is not None and outlook.choice.best > chosen.batch_size:
        return None
    return time_to_loss.limit(passed, chosen, curve.ceiling, check)


def _soonest(allowed: Sequence[Trial], outlook: Outlook) -> tuple[Trial, str]:
    choice, times = outlook.choice, outlook.times
    chosen = next(trial for trial in allowed if trial.batch_size == choice.batch_size)
    ratios = {size: time / times[choice.batch_size] for size, time in times.items()}
    own = outlook.current_size
    if choice.batch_size == own and choice.best != own:
        return chosen, (
            f"your present size is within {choice.tie:.0%} of the shortest expected time to the same loss "
            f"(1.00 against {ratios[choice.best]:.2f} at {choice.best:,})"
        )
    others = sorted((size for size in ratios if size != choice.batch_size), key=ratios.__getitem__)[:1]
    others += [size for size in (own, max(ratios)) if size in ratios and size != choice.batch_size]
    against = " and ".join(f"{ratios[size]:.2f} at {size:,}" for size in dict.fromkeys(others) if size)
    reason = "shortest expected time to the same loss"
    if choice.batch_size != choice.best:
        reason = "among the shortest expected times to the same loss, which noise blurs"
    return chosen, reason + (f": 1.00 against {against}" if against else "")


def _learning_rate_factor(workload: Workload, check: Check | None, global_batch: int) -> float | None:
    """What the learning rates are multiplied by: as it was trained with, else by the noise rule."""
    if check is None or check.batch_size is None or check.critical_batch_size is None:
        return None
    trained = loss_curves.best_of_each(check.trainings).get(global_batch)
    if trained is not None and trained.outcome is Outcome.OK:
        return trained.learning_rate_factor
    power = critical_batch.learning_rate_power(workload.optimizer)
    if power is None:
        return None
    own = workload.batch_size or check.batch_size
    return time_to_loss.learning_rate_factor(check, own, global_batch, power)


def _knee(passed: Sequence[Trial]) -> tuple[Trial, str]:
    passed = timed(passed)
    best = max(passed, key=_rate)
    if not _rate(best):
        return _largest(passed)[0], _NONE_TIMED
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
    best = max(timed(passed), key=_rate)
    if not _rate(best):
        return _largest(passed)[0], _NONE_TIMED
    return best, "the highest throughput that was measured"


def _largest(passed: Sequence[Trial]) -> tuple[Trial, str]:
    return max(passed, key=lambda trial: trial.batch_size), "the largest size that fits, as asked for"


def _for_target(passed: Sequence[Trial], target: int, ranks: int, warnings: list[str]) -> tuple[Trial, str]:
    """The size that makes up one rank's part of the target: all at once if it fits, else its best divisor."""
    divisors = [trial for trial in passed if target % trial.batch_size == 0]
    if not divisors:
        chosen = max(passed, key=lambda trial: trial.batch_size)
        warnings.append(
            f"no size that was measured divides the global batch size {target * ranks:,}; it is not met"
        )
        return chosen, "the largest size that was measured"
    best = max(divisors, key=_rate)
    near = [trial for trial in divisors if _rate(trial) >= (1 - TOLERANCE) * _rate(best)]
    chosen = max(
        [*near, *(t for t in divisors if t.batch_size == target)], key=lambda trial: trial.batch_size
    )
    if chosen.batch_size == target:
        return chosen, f"the global batch size {target * ranks:,} fits at once"
    return chosen, (
        f"the global batch size {target * ranks:,} does not fit at once; {chosen.batch_size:,} divides it "
        "and has the best throughput of the sizes that do"
    )


def _rate(trial: Trial) -> float:
    """Samples a second; 0 where the size was tried for memory only."""
    if trial.samples_per_second or not trial.step_seconds:
        return trial.samples_per_second or 0.0
    return trial.batch_size / median(trial.step_seconds)

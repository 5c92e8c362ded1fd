"""Pure: expected times to the same loss, the recommended size beside all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, isfinite, log
from statistics import fmean

from autobatch.decision import critical_batch, loss_curves
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.round_statistics import timed
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from autobatch.records.check import Candidate, Check, Training
from autobatch.records.recommendation import AnswerLimit, Comparison, StepTime
from autobatch.records.trial import Ceiling, LimitedBy, Trial

# A larger size that brings less throughput than this is held back by throughput, else by generalization.
_RISE = 0.05
_BY_CEILING = {
    LimitedBy.MEMORY: AnswerLimit.MEMORY,
    LimitedBy.SIZE_LIMIT: AnswerLimit.MEMORY,
    LimitedBy.PLATEAU: AnswerLimit.THROUGHPUT,
    LimitedBy.DATASET: AnswerLimit.DATASET,
    LimitedBy.BUDGET: AnswerLimit.OPTIONS,
    LimitedBy.MAX_BATCH: AnswerLimit.OPTIONS,
}
# Batch sizes beyond the ceiling are looked at up to that many times as large.
_BEYOND = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is expected of each size that may be chosen: `times` in units of S_min seconds, by size."""

    times: dict[int, float]
    choice: critical_batch.Choice
    law: StepTimeLaw
    critical: float
    interval: tuple[float, float]
    current_size: int | None

    def against(self, size: int | None, chosen: int) -> Comparison | None:
        """`size` beside the chosen one; None for the chosen one itself."""
        if size is None or size == chosen:
            return None
        ends = [critical_batch.time_ratio(size, chosen, critical, self.law) for critical in self.interval]
        return Comparison(
            batch_size=size,
            relative_time=self.times[size] / self.times[chosen],
            low=min(ends),
            high=max(ends),
            epochs_ratio=critical_batch.epochs_ratio(size, chosen, self.critical),
        )

    def runner_up(self, chosen: int) -> Comparison | None:
        """The best of the other sizes; None where there is no other."""
        others = [size for size in self.times if size != chosen]
        return self.against(min(others, key=self.times.__getitem__), chosen) if others else None

    def regret_bound(self, chosen: int) -> float:
        """Time at the chosen size over that at the best one, at worst over the interval of B_crit."""
        return critical_batch.regret_bound(chosen, tuple(self.times), self.interval, self.law)


def outlook(
    passed: Sequence[Trial], allowed: Sequence[Trial], check: Check | None, current_size: int | None
) -> Outlook | None:
    """What to expect of the sizes that are allowed; None without a critical batch size."""
    belief = None if check is None else _belief(check)
    if check is None or belief is None or check.critical_batch_size is None or check.interval is None:
        return None
    if not _is_timed(allowed):
        return None
    law = step_time_law(passed)
    every = [trial.batch_size for trial in timed(allowed)]
    sizes = _between_trained(every, check)
    low, high = check.interval
    return Outlook(
        times={size: exp(critical_batch.expected_log_time(size, belief, law)) for size in sizes},
        choice=critical_batch.pick(
            every,
            belief,
            law,
            current_size=current_size,
            has_trainings=_trained_sizes(check) is not None,
            within=sizes,
        ),
        law=law,
        critical=check.critical_batch_size,
        interval=(low, inf if high is None else high),
        current_size=current_size,
    )


def step_time_law(passed: Sequence[Trial]) -> StepTimeLaw:
    """The law of the step's time over the sizes that were timed; there has to be one."""
    steps = {trial.batch_size: trial.step_seconds for trial in timed(passed)}
    return fit_step_time(list(steps), list(steps.values()))


def step_time(passed: Sequence[Trial]) -> StepTime | None:
    """That law as a record; None where one size alone was timed."""
    if len(timed(passed)) < 2 or not _is_timed(passed):
        return None
    law = step_time_law(passed)
    return StepTime(
        fixed_seconds=law.a_seconds,
        sample_seconds=law.b_seconds_per_sample,
        relative_error=law.relative_error,
    )


def _is_timed(passed: Sequence[Trial]) -> bool:
    """False where all sizes were tried for memory only."""
    return any(trial.step_seconds for trial in passed)


def learning_rate_factor(check: Check, current_size: int, global_batch: int, power: float) -> float:
    """What the noise rule multiplies learning rates by, from the size they are meant for to a global one.

    Where the training nearest to that did better with half of what the rule gave it, so does this.
    """
    assert check.critical_batch_size is not None
    rule = critical_batch.scaled_learning_rate(
        1.0, current_size, global_batch, check.critical_batch_size, power
    )
    best = loss_curves.best_of_each(check.trainings)
    if not best:
        return rule
    nearest = min(best, key=lambda size: abs(log(size / global_batch)))
    first = next(one for one in check.trainings if one.batch_size == nearest)
    return rule * best[nearest].learning_rate_factor / first.learning_rate_factor


def with_candidates(
    check: Check | None, passed: Sequence[Trial], chosen: Trial, ceiling: Ceiling
) -> Check | None:
    """The check with the expected time at every size that was timed, in units of that at the chosen one.

    Where more memory would allow for a better size, that size made up by accumulation is a row too.
    """
    belief = None if check is None else _belief(check)
    if check is None or belief is None or not _is_timed(passed):
        return check
    law, trained = step_time_law(passed), loss_curves.best_of_each(check.trainings)
    sizes = sorted({*trained, *(trial.batch_size for trial in [*timed(passed), chosen])})
    times = {size: exp(critical_batch.expected_log_time(size, belief, law)) for size in sizes}
    matched = matched_in(check)
    found = [
        _trained_candidate(size, times[size] / times[chosen.batch_size], trained.get(size), matched)
        for size in sizes
    ]
    return replace(check, candidates=(*found, *_accumulated(check, law, chosen.batch_size, sizes, ceiling)))


def matched_in(check: Check) -> loss_curves.Matched | None:
    """Steps to one loss in the check's trainings; None where they don't compare."""
    if check.batch_size is None:
        return None
    return loss_curves.match(loss_curves.sound(check.batch_size, check.trainings))


def limit(
    passed: Sequence[Trial], chosen: Trial, ceiling: Ceiling, check: Check | None
) -> AnswerLimit | None:
    """What keeps the answer from being larger; None where nothing is known of larger sizes."""
    larger = sorted(
        (t for t in timed(passed) if t.batch_size > chosen.batch_size), key=lambda t: t.batch_size
    )
    if not larger:
        return _BY_CEILING[ceiling.limited_by]
    following = larger[0]
    above = range(chosen.batch_size + 1, following.batch_size + 1)
    if check is not None and any(veto.batch_size in above for veto in check.vetoed):
        return AnswerLimit.VETO
    highest = max(trial.samples_per_second or 0.0 for trial in larger)
    if not highest or not chosen.samples_per_second:
        return None
    rises = highest > (1 + _RISE) * chosen.samples_per_second
    return AnswerLimit.GENERALIZATION if rises else AnswerLimit.THROUGHPUT


def _trained_candidate(
    size: int, relative_time: float, training: Training | None, matched: loss_curves.Matched | None
) -> Candidate:
    row = Candidate(batch_size=size, relative_time=relative_time)
    if training is None:
        return row
    last = training.evaluations[-1] if training.evaluations else None
    return replace(
        row,
        learning_rate_factor=training.learning_rate_factor,
        loss=None if last is None else fmean(last.losses),
        steps=training.steps,
        steps_to_loss=dict(matched.steps).get(size) if matched else None,
        seconds_to_loss=dict(matched.seconds).get(size) if matched else None,
    )


def _accumulated(
    check: Check, law: StepTimeLaw, chosen: int, sizes: Sequence[int], ceiling: Ceiling
) -> list[Candidate]:
    """The best size there would be with more memory, by accumulation: it never saves time on one device."""
    largest = sizes[-1]
    if ceiling.limited_by is not LimitedBy.MEMORY or chosen != largest or check.critical_batch_size is None:
        return []
    steps = [1 << k for k in range(_BEYOND.bit_length())]
    best = critical_batch.best_size([largest * count for count in steps], check.critical_batch_size, law)
    if best == largest:
        return []
    count = best // largest
    alone = critical_batch.relative_time(chosen, check.critical_batch_size, law)
    together = critical_batch.accumulated_time(largest, count, check.critical_batch_size, law)
    return [Candidate(batch_size=largest, accumulation_steps=count, relative_time=together / alone)]


def _between_trained(sizes: Sequence[int], check: Check) -> list[int]:
    """The sizes from the smallest to the largest that trained well: beyond them, nothing has been seen.

    Without trainings none below the size that the noise was measured at. Early in a training the noise scale
    is too low, 0.05 to 0.9 of the critical batch size in four tasks: it may speak for more, not for less.
    """
    trained = _trained_sizes(check)
    if trained is None:
        return [size for size in sizes if size >= (check.batch_size or 0)] or list(sizes)
    inside = [size for size in sizes if trained[0] <= size <= trained[-1]]
    return inside or list(sizes)


def _trained_sizes(check: Check) -> list[int] | None:
    """Ascending, the sizes that trained well; None where fewer than two were trained."""
    if check.batch_size is None or len(loss_curves.best_of_each(check.trainings)) < 2:
        return None
    found = sorted(one.batch_size for one in loss_curves.sound(check.batch_size, check.trainings))
    return found or None


def _belief(check: Check) -> critical_batch.Belief | None:
    """What the check came to; None where that is nothing."""
    if check.critical_batch_size is None or check.interval is None or check.log_sd is None:
        return None
    if not isfinite(check.log_sd):
        return None
    low, high = check.interval
    return critical_batch.posterior(
        CriticalBatchSize(
            batch_size=check.critical_batch_size,
            low=low,
            high=inf if high is None else high,
            log_sd=check.log_sd,
        )
    )

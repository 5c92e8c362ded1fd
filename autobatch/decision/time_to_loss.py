"""Pure: expected times to the same loss, over all sizes and relative to the recommended one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite

from autobatch.decision import critical_batch, loss_curves
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.step_time import StepTimeLaw
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check
from autobatch.records.recommendation import Comparison, StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Expected times of the sizes that may be chosen: `times` in units of S_min seconds, by batch size.

    `critical` and its 90% `interval` in samples of one rank; the interval's upper end may be infinite.
    """

    times: dict[int, float]
    choice: critical_batch.Choice
    law: StepTimeLaw
    critical: float
    interval: tuple[float, float]
    current_size: int | None

    def against(self, size: int | None, chosen: int) -> Comparison | None:
        """`size` compared with the chosen one; None for the chosen one itself."""
        if size is None or size == chosen:
            return None
        ends = [critical_batch.time_ratio(size, chosen, critical, self.law) for critical in self.interval]
        relative_time = self.times[size] / self.times[chosen]
        low, high = critical_batch.prediction_interval(relative_time, ends)
        return Comparison(
            batch_size=size,
            relative_time=relative_time,
            low=low,
            high=high,
            epochs_ratio=critical_batch.epochs_ratio(size, chosen, self.critical),
        )

    def runner_up(self, chosen: int) -> Comparison | None:
        """The best of the other sizes; None where there is no other."""
        others = [size for size in self.times if size != chosen]
        return self.against(min(others, key=self.times.__getitem__), chosen) if others else None

    def regret_bound(self, chosen: int) -> float:
        """Time at the chosen size over the time at the best, the worst case over the interval of B_crit."""
        return critical_batch.regret_bound(chosen, tuple(self.times), self.interval, self.law)


def outlook(
    trials: TrialSet,
    allowed: TrialSet,
    check: Check | None,
    current_size: int | None,
    *,
    within_trained: bool = True,
) -> Outlook | None:
    """Expected times of the `allowed` sizes; None without a critical batch size or a timed size.

    The step-time model is fitted to all timed `trials`. `check` is per rank. `within_trained`: no size beyond
    the trained ones. Without it, all from the reference size up are predicted by the law.
    """
    belief, law = belief_of(check), trials.step_time
    if check is None or check.critical_batch_size is None or check.interval is None:
        return None
    if belief is None or law is None or not allowed.timed:
        return None
    timed = [trial.batch_size for trial in allowed.timed]
    sizes = _comparable(timed, check) if within_trained else _from_reference(timed, check)
    low, high = check.interval
    return Outlook(
        times={size: exp(critical_batch.expected_log_time(size, belief, law)) for size in sizes},
        choice=critical_batch.pick(
            timed,
            belief,
            law,
            current_size=current_size,
            within=sizes,
        ),
        law=law,
        critical=check.critical_batch_size,
        interval=(low, inf if high is None else high),
        current_size=current_size,
    )


def belief_of(check: Check | None) -> critical_batch.Belief | None:
    """The belief in the critical batch size after the check; None where the check came to none."""
    if check is None or check.critical_batch_size is None or check.interval is None or check.log_sd is None:
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


def step_time(trials: TrialSet) -> StepTime | None:
    """The step-time model as a record; None with fewer than two timed sizes."""
    law = trials.step_time
    if law is None or len(law.sizes) < 2:
        return None
    return StepTime(
        fixed_seconds=law.a_seconds,
        sample_seconds=law.b_seconds_per_sample,
        relative_error=law.relative_error,
    )


def matched_in(check: Check) -> loss_curves.Matched | None:
    """Steps to one loss in the check's trainings; None where they can't be compared."""
    if check.batch_size is None:
        return None
    trainings = loss_curves.about_sizes(check.batch_size, check.trainings)
    return loss_curves.match(loss_curves.sound(check.batch_size, trainings))


def _comparable(sizes: Sequence[int], check: Check) -> list[int]:
    """The sizes between the smallest and the largest that trained well: beyond them nothing was measured.

    Without trainings, the sizes from the reference size up. Early in a training the noise scale is too low,
    0.05 to 0.9 of the critical batch size in four tasks: it can justify a larger size, not a smaller one.
    """
    trained = _trained_sizes(check)
    if trained is None:
        return _from_reference(sizes, check)
    return [size for size in sizes if trained[0] <= size <= trained[-1]] or list(sizes)


def _from_reference(sizes: Sequence[int], check: Check) -> list[int]:
    return [size for size in sizes if size >= (check.batch_size or 0)] or list(sizes)


def _trained_sizes(check: Check) -> list[int] | None:
    """The sizes that trained well, ascending; None where fewer than two were trained."""
    if check.batch_size is None or len(loss_curves.best_of_each(check.trainings)) < 2:
        return None
    trainings = loss_curves.sound(check.batch_size, check.trainings)
    return sorted(training.batch_size for training in trainings) or None

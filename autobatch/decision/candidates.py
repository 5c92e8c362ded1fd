"""Pure: the table of candidates, with expected times relative to the recommended size."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from statistics import fmean

from autobatch.decision import critical_batch, loss_curves
from autobatch.decision.constants import FARTHEST_PREDICTION, SMOOTHED
from autobatch.decision.time_to_loss import belief_of, matched_in
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, Training
from autobatch.records.recommendation import Candidate
from autobatch.records.trial import Ceiling, LimitedBy, Trial


def candidates(
    trials: TrialSet, chosen: Trial, check: Check | None, ceiling: Ceiling
) -> tuple[Candidate, ...]:
    """A row for each timed or trained size, ascending; none without a critical batch size.

    Where more memory would allow a better size, a last row makes that size up by accumulation. `check` is
    per rank.
    """
    belief, law = belief_of(check), trials.step_time
    if check is None or belief is None or law is None:
        return ()
    trained, matched = loss_curves.best_of_each(check.trainings), matched_in(check)
    sizes = sorted({*trained, *(trial.batch_size for trial in (*trials.timed, chosen))})
    times = {size: exp(critical_batch.expected_log_time(size, belief, law)) for size in sizes}
    rows = [_row(size, times[size] / times[chosen.batch_size], trained.get(size), matched) for size in sizes]
    if ceiling.limited_by is LimitedBy.MEMORY and chosen.batch_size == sizes[-1]:
        rows += _accumulated(trials, check, chosen.batch_size)
    return tuple(rows)


def _row(
    size: int, relative_time: float, training: Training | None, matched: loss_curves.Matched | None
) -> Candidate:
    row = Candidate(batch_size=size, relative_time=relative_time)
    if training is None:
        return row
    # A single evaluation is noisy: the answer compares means as well.
    last = [fmean(evaluation.losses) for evaluation in training.evaluations[-SMOOTHED:]]
    return replace(
        row,
        learning_rate_factor=training.learning_rate_factor,
        loss=fmean(last) if last else None,
        steps=training.steps,
        steps_to_loss=dict(matched.steps).get(size) if matched else None,
        seconds_to_loss=dict(matched.seconds).get(size) if matched else None,
    )


def _accumulated(trials: TrialSet, check: Check, largest: int) -> list[Candidate]:
    """The best size that there would be with more memory; on one device accumulation never saves time."""
    law, critical = trials.step_time, check.critical_batch_size
    if law is None or critical is None:
        return []
    multiples = [1 << k for k in range(FARTHEST_PREDICTION.bit_length())]
    count = critical_batch.best_size([largest * steps for steps in multiples], critical, law) // largest
    if count == 1:
        return []
    alone = critical_batch.relative_time(largest, critical, law)
    together = critical_batch.accumulated_time(largest, count, critical, law)
    return [Candidate(batch_size=largest, accumulation_steps=count, relative_time=together / alone)]

"""Pure: measurements and limits in, one batch size with its reasons out, for saved answers too."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, exp

from autobatch.decision import (
    critical_batch,
    global_batch,
    loss_curves,
    next_training,
    scaling,
    size_choice,
    time_to_loss,
)
from autobatch.decision.candidates import candidates
from autobatch.decision.confidence import kept_uncompared, measured_speedups
from autobatch.decision.constants import TOLERANCE
from autobatch.decision.equal_training import octaves_below
from autobatch.decision.judgement import Judgement
from autobatch.decision.size_choice import SizeChoice
from autobatch.decision.time_to_loss import Outlook
from autobatch.decision.trial_set import TrialSet, throughput
from autobatch.decision.warnings import restated_schedule, warnings_about
from autobatch.records.check import Check, LossKind
from autobatch.records.errors import UsageError, not_decidable
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Action, Alternative, AlternativeKind, Recommendation
from autobatch.records.scaling import Scaling
from autobatch.records.trial import Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload


def recommend(curve: Curve, check: Check | None = None, limits: Limits | None = None) -> Recommendation:
    """The batch size to train with, always a measured one that passed and that `limits` permit.

    With a check it is the size with the shortest training of the same epochs, of those whose final loss is
    expected within 2% of the current size's; the current size where none is surely faster. For the objective
    `time-to-loss` it is the size with the shortest expected time to the same loss, (1 + B_crit / B) t(B), and
    never a vetoed one. Without a check it is the knee of the throughput curve, the smallest size within 5% of
    the best, from the current size on. A global batch size is met exactly, by accumulation where it does not
    fit at once. With several ranks, batch sizes are those of one rank (see autobatch.decision.scaling).

    Raises UsageError where the limits permit no measured size, or the ranks can't share the global batch.
    """
    limits, ranks = limits or Limits(), curve.world_size
    trials = TrialSet.of(curve)
    rank_check = None if check is None else scaling.per_rank(check, ranks)
    limits_of_rank = scaling.limits_of_a_rank(limits, ranks)
    permitted = _permitted(trials, limits_of_rank, curve)
    samples = scaling.share_of_dataset(curve.workload.dataset_size, ranks)
    target = _global_batch(curve.workload, limits_of_rank)
    is_dependent = check is not None and check.loss_kind is LossKind.BATCH_DEPENDENT
    choice = None if not limits.number_alone else global_batch.kept_alone(permitted, curve.workload)
    if choice is None and target is not None and is_dependent:
        choice = global_batch.for_loss_batch(
            permitted, target, ranks, curve.workload.micro_batch_size, limits.max_batch
        )
    elif choice is None and target is not None:
        choice = global_batch.for_global_batch(permitted, target, ranks, curve.workload, limits.max_batch)
    if choice is None:
        choice = size_choice.choose(trials, permitted, rank_check, limits, curve.workload, samples)
    chosen = choice.trial
    accumulation = 1 if is_dependent else _accumulation_steps(chosen.batch_size, target)
    rank_batch = chosen.batch_size * accumulation
    factor = _learning_rate_factor(
        curve.workload,
        rank_check,
        limits,
        rank_batch,
        choice.judgement,
        scaling.samples_of_training(curve.workload, ranks),
        accumulation,
    )
    rate = curve.workload.learning_rate
    answer = Recommendation(
        batch_size=chosen.batch_size,
        accumulation_steps=accumulation,
        world_size=ranks,
        global_batch_size=rank_batch * ranks,
        learning_rate=None if factor is None or rate is None else factor * rate,
        learning_rate_factor=factor,
        ceiling=curve.ceiling,
        trials=curve.trials,
        check=check,
        why=choice.why,
        warnings=(),
        measured_warnings=curve.warnings,
        candidates=candidates(trials, chosen, rank_check, curve.ceiling),
        step_time=time_to_loss.step_time(trials),
        tokens_per_second=_tokens_per_second(curve.workload, chosen),
        schedule=restated_schedule(curve.workload, rank_batch),
        loader=curve.loader,
        communication=curve.communication,
        sizes_per_rank=curve.sizes_per_rank,
        workload=curve.workload,
        device=curve.device,
        limits=limits,
    )
    if target is None and not (choice.outlook and choice.outlook.choice.best > chosen.batch_size):
        limit = size_choice.limit(trials, permitted, chosen, curve.ceiling, rank_check)
        answer = replace(answer, limited_by=limit)
    if choice.judgement is not None and target is not None:
        answer = _divided(answer, choice.judgement)
        if limits.global_batch is None and rank_check is not None:
            beside = size_choice.choose(trials, permitted, rank_check, limits, curve.workload, samples)
            answer = _with_other_global_batch(answer, beside, permitted)
    elif choice.judgement is not None:
        answer = _decided(answer, choice.judgement, choice.outlook, rank_check)
    elif choice.outlook is not None:
        answer = _compared(answer, choice.outlook)
    return replace(answer, warnings=(*curve.warnings, *choice.warnings, *warnings_about(answer)))


def decide_again(
    answer: Recommendation, limits: Limits | None = None, *, objective: Objective | str | None = None
) -> Recommendation:
    """The recommendation for the same measurements within other limits, without measuring anything.

    `limits`: those of the answer if not given. `objective` replaces theirs. A memory limit below the one of
    the measurement excludes the sizes that held more. Only measured sizes are recommended, so limits that
    permit more than the measurement did change nothing.

    Raises UsageError where the limits permit no measured size, or hold a value that is not allowed, and
    SavedResultError for an answer that an older version saved without all of its measurements.
    """
    if not answer.decidable:
        raise not_decidable()
    limits = limits or answer.limits
    if objective is not None:
        limits = replace(limits, objective=objective)  # type: ignore[arg-type]  # a word is checked there
    again = recommend(answer.curve, answer.check, limits)
    return replace(again, environment=answer.environment, cached=answer.cached)


def _permitted(trials: TrialSet, limits: Limits, curve: Curve) -> TrialSet:
    permitted = trials.within(limits, curve.device.limit_bytes)
    if permitted.usable:
        return permitted
    sizes = ", ".join(f"{trial.batch_size:,}" for trial in trials.usable) or "none"
    raise UsageError(
        "the limits permit none of the measured batch sizes",
        code="nothing_measured",
        facts=(f"measured: {sizes}",),
        hint="measure again within these limits",
    )


def _global_batch(workload: Workload, limits_of_rank: Limits) -> int | None:
    """The samples of one rank's optimizer step that have to stay: those asked for, or those accumulated."""
    target = limits_of_rank.global_batch
    if (
        target is not None
        or limits_of_rank.objective is not Objective.TIME
        or workload.accumulation_steps == 1
    ):
        return target
    return workload.batch_size


def _accumulation_steps(batch_size: int, target: int | None) -> int:
    return target // batch_size if target is not None and target % batch_size == 0 else 1


def _decided(
    answer: Recommendation, judgement: Judgement, outlook: Outlook | None, check: Check | None
) -> Recommendation:
    """The answer with its decision, the sizes beside the current one, and the faster alternatives.

    Where the budget ended before another size was timed, nothing is known of the others.
    """
    is_cut_short = answer.ceiling.limited_by is LimitedBy.BUDGET and len(judgement.speedups) == 1
    return replace(
        answer,
        decision=kept_uncompared(judgement.reference) if is_cut_short else judgement.decision,
        epochs=answer.workload.epochs,
        same_epochs=judgement.rows,
        alternatives=() if outlook is None else _more_epochs(answer, judgement, outlook, check),
        scaling=None if outlook is None else _scaling(answer, outlook),
    )


def _divided(answer: Recommendation, judgement: Judgement) -> Recommendation:
    """The answer that keeps the global batch, with its decision among the divisors."""
    return replace(
        answer,
        decision=judgement.decision,
        epochs=answer.workload.epochs,
        same_epochs=judgement.rows,
    )


def _with_other_global_batch(
    answer: Recommendation, beside: SizeChoice, permitted: TrialSet
) -> Recommendation:
    """The answer with the learning rate that was tried at its global batch, and a faster global batch."""
    judgement, workload = beside.judgement, answer.workload
    if judgement is None or judgement.reference != workload.batch_size or not judgement.harms:
        return answer
    factor = judgement.rates[judgement.reference].factor
    rate = workload.learning_rate
    answer = replace(
        answer,
        learning_rate_factor=factor,
        learning_rate=None if rate is None else factor * rate,
    )
    chosen, other = answer.chosen, beside.trial
    law = permitted.step_time
    current = permitted.latest.get(workload.micro_batch_size or 0)
    if judgement.decision.action is not Action.CHANGE or law is None or current is None:
        return answer
    speedups = measured_speedups(current, [current, chosen, other], law)
    speedup = speedups[other.batch_size]
    if exp(speedup.log_ratio - speedups[chosen.batch_size].log_ratio) < 1 + TOLERANCE:
        return answer
    (row,) = (row for row in judgement.rows if row.batch_size == other.batch_size)
    alternative = Alternative(
        kind=AlternativeKind.GLOBAL_BATCH,
        batch_size=other.batch_size,
        learning_rate_factor=row.learning_rate_factor,
        epochs_ratio=1.0,
        epochs=None if workload.epochs is None else ceil(workload.epochs),
        speedup=exp(speedup.log_ratio),
        interval=speedup.interval,
    )
    return replace(answer, alternatives=(alternative,))


def _more_epochs(
    answer: Recommendation, judgement: Judgement, outlook: Outlook, check: Check | None
) -> tuple[Alternative, ...]:
    """The size with the shortest time to the reference's loss, where it takes more epochs and less time.

    None where its samples may not even be faster.
    """
    size, reference = outlook.choice.batch_size, judgement.reference
    comparison = outlook.against(reference, size) if reference in outlook.times else None
    if comparison is None or size == answer.batch_size or comparison.relative_time < 1 + TOLERANCE:
        return ()
    timing = judgement.speedups.get(size)
    if comparison.epochs_ratio < 1 + TOLERANCE or timing is None or timing.interval[0] <= 1:
        return ()
    epochs = answer.workload.epochs
    alternative = Alternative(
        kind=AlternativeKind.MORE_EPOCHS,
        batch_size=size,
        learning_rate_factor=_learning_rate_factor(answer.workload, check, answer.limits, size),
        epochs_ratio=comparison.epochs_ratio,
        epochs=None if epochs is None else ceil(epochs * comparison.epochs_ratio),
        speedup=comparison.relative_time,
        interval=(comparison.low, comparison.high),
    )
    return (alternative,)


def _compared(answer: Recommendation, outlook: Outlook) -> Recommendation:
    """The answer with its comparisons: the current size, the next best, the truly best, more devices."""
    current = answer.workload.batch_size
    return replace(
        answer,
        current=outlook.against(current, answer.batch_size) if current in outlook.times else None,
        runner_up=outlook.runner_up(answer.batch_size),
        regret_bound=outlook.regret_bound(answer.batch_size),
        scaling=_scaling(answer, outlook),
    )


def _scaling(answer: Recommendation, outlook: Outlook) -> Scaling | None:
    """The prediction for other numbers of devices; None where its communication or step was not timed."""
    if answer.communication is None or answer.batch_size not in outlook.times:
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


def _tokens_per_second(workload: Workload, chosen: Trial) -> float | None:
    """Tokens of the samples themselves, without the padding of a batch to its longest sample."""
    tokens = None if workload.sizes is None else workload.sizes.tokens
    rate = throughput(chosen)
    return None if tokens is None or not rate else tokens.mean * rate


def _learning_rate_factor(
    workload: Workload,
    check: Check | None,
    limits: Limits,
    rank_batch: int,
    judgement: Judgement | None = None,
    whole_samples: float | None = None,
    accumulation: int = 1,
) -> float | None:
    """The factor of the learning rates for an optimizer step that accumulates so many batches."""
    if check is None or check.batch_size is None:
        return None
    if limits.keep_learning_rate:
        if check.critical_batch_size is None:
            return None
        current_size = workload.batch_size or check.batch_size
        return float((rank_batch / current_size) ** workload.learning_rate_power)
    factor = _factor_at_once(workload, check, rank_batch, judgement, whole_samples)
    if factor is None:
        return None
    # A sum is that of a single loss: accumulated losses are averaged.
    power = critical_batch.learning_rate_power(workload.optimizer)
    return factor * critical_batch.sum_correction(
        check.loss_kind, power, rank_batch, rank_batch // accumulation
    )


def _factor_at_once(
    workload: Workload,
    check: Check,
    rank_batch: int,
    judgement: Judgement | None,
    whole_samples: float | None,
) -> float | None:
    """The factor for a single batch: as decided for this size or trained at it, else by the noise rule."""
    if judgement is not None and rank_batch in judgement.rates:
        return judgement.rates[rank_batch].factor
    if check.critical_batch_size is None:
        return None
    if judgement is not None:
        return _decided_factor(workload, check, rank_batch, judgement)
    walked = next_training.walk_at(rank_batch, check.trainings, whole_samples)
    if walked is not None and walked.log_gain:
        return walked.factor
    rates = loss_curves.about_sizes(check.batch_size or rank_batch, check.trainings)
    trained = loss_curves.best_of_each(rates).get(rank_batch)
    if trained is not None and trained.outcome is Outcome.OK:
        return trained.learning_rate_factor
    return _rule_factor(workload, check, rank_batch)


def _decided_factor(workload: Workload, check: Check, rank_batch: int, judgement: Judgement) -> float | None:
    """The factor of an untrained size: that of the rule, or of a lower rate.

    A rate that had to be lowered at the largest trained size below is too high here as well.
    """
    factor = _rule_factor(workload, check, rank_batch)
    if factor is None:
        return None
    octaves = octaves_below(judgement, rank_batch, lambda size: _rule_factor(workload, check, size) or 1.0)
    return factor * 2.0 ** min(octaves, 0)


def _rule_factor(workload: Workload, check: Check, rank_batch: int) -> float | None:
    """The factor by the noise rule; None where no rule is known for the optimizer."""
    power = critical_batch.learning_rate_power(workload.optimizer)
    if power is None or check.critical_batch_size is None:
        return None
    current_size = workload.batch_size or check.batch_size or rank_batch
    of_sum = critical_batch.sum_correction(check.loss_kind, power, current_size, rank_batch)
    return of_sum * critical_batch.scaled_learning_rate(
        1.0, current_size, rank_batch, check.critical_batch_size, power
    )

"""Pure: the choice of one measured size, a function for each thing that it may be best at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from autobatch.decision import next_training, time_to_loss
from autobatch.decision.constants import HARM_TOLERANCE, TOLERANCE, USUAL_BATCH_SIZE
from autobatch.decision.judgement import Judgement, judge
from autobatch.decision.time_to_loss import Outlook
from autobatch.decision.trial_set import TrialSet, throughput
from autobatch.records.check import Check, CheckStatus, LossKind
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Action, AnswerLimit, SameEpochs
from autobatch.records.trial import Ceiling, LimitedBy, Trial
from autobatch.records.workload import Workload

_NONE_TIMED = "the largest size that passed: none was timed"
_BY_CEILING = {
    LimitedBy.MEMORY: AnswerLimit.MEMORY,
    LimitedBy.SIZE_LIMIT: AnswerLimit.SIZE_LIMIT,
    LimitedBy.PLATEAU: AnswerLimit.THROUGHPUT,
    LimitedBy.DATASET: AnswerLimit.DATASET,
    LimitedBy.BUDGET: AnswerLimit.OPTIONS,
    LimitedBy.MAX_BATCH: AnswerLimit.OPTIONS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChoice:
    """A measured size and the reason for it.

    `outlook`: the expected times to the same loss, if they are known. `judgement`: the comparison at the same
    epochs, if it decided.
    """

    trial: Trial
    why: str
    outlook: Outlook | None = None
    judgement: Judgement | None = None
    warnings: tuple[str, ...] = ()


def choose(
    trials: TrialSet,
    permitted: TrialSet,
    check: Check | None,
    limits: Limits,
    workload: Workload,
    samples: int | None,
) -> SizeChoice:
    """The size that is best at what `limits` ask for, out of `permitted`, which holds a usable size.

    `limits` and `check` are those of one rank, but for the limits' global batch, which is met per rank.
    `samples`: those of one rank's epoch.
    """
    current_size = workload.batch_size
    if limits.objective is Objective.MEMORY:
        return largest(permitted)
    if limits.objective is Objective.THROUGHPUT:
        return highest_throughput(permitted)
    if check is not None and check.loss_kind is LossKind.BATCH_DEPENDENT:
        # Neither noise nor throughput speaks for another size: only trainings do.
        trained = judge(permitted, check, current_size=current_size, samples=samples, epochs=workload.epochs)
        return knee(permitted) if trained is None else at_the_same_epochs(permitted, trained, None, workload)
    allowed = without_vetoed(permitted, check)
    # With more epochs, sizes beyond those that were trained for the user's may pay.
    to_loss = limits.objective is Objective.TIME_TO_LOSS
    outlook = time_to_loss.outlook(trials, allowed, check, current_size, within_trained=to_loss)
    if to_loss and outlook is not None:
        return shortest_time(allowed, outlook)
    if to_loss:
        must_keep = check is not None and _must_keep(check, workload)
        return kept_unchecked(allowed, workload) if must_keep else knee(allowed)
    judgement = None
    if check is not None and (outlook is not None or _must_keep(check, workload)):
        judgement = judge(
            permitted if outlook is not None else _not_below(permitted, current_size or USUAL_BATCH_SIZE),
            check,
            current_size=current_size,
            samples=samples,
            epochs=workload.epochs,
            keeps_rate=limits.keep_learning_rate,
            power=workload.learning_rate_power,
        )
    if judgement is None:
        return knee(_not_below(allowed, current_size or USUAL_BATCH_SIZE))
    return at_the_same_epochs(permitted, judgement, outlook, workload)


def _must_keep(check: Check, workload: Workload) -> bool:
    """True where a check had no result, so that no other size than the user's is known to be harmless."""
    no_result = check.status is CheckStatus.NOT_RUN
    return no_result and workload.batch_size is not None and not workload.synthetic


def kept_unchecked(allowed: TrialSet, workload: Workload) -> SizeChoice:
    """The current size, or the measured size nearest to it, where no check shows how other sizes train."""
    trial, kept = nearest_to_current(allowed, workload.batch_size)
    return SizeChoice(trial=trial, why=f"{kept}: no check shows the time to a loss at other sizes")


def nearest_to_current(permitted: TrialSet, current_size: int | None) -> tuple[Trial, str]:
    """The measured size nearest to the current one, else to the usual one, and its name for a reason."""
    size = current_size or USUAL_BATCH_SIZE
    trial = permitted.nearest(size)
    assert trial is not None
    is_current = trial.batch_size == current_size
    return trial, "your batch size" if is_current else f"the measured size nearest to {size:,}"


def at_the_same_epochs(
    permitted: TrialSet, judgement: Judgement, outlook: Outlook | None, workload: Workload
) -> SizeChoice:
    """The fastest size that ends within 2% of the current size's loss, or the current size."""
    decision, current = judgement.decision, workload.batch_size
    warnings = []
    if current is not None and current != judgement.reference:
        warnings.append(
            f"your batch size {current:,} can't be used; {judgement.reference:,} stands for it in comparisons"
        )
    if judgement.rescued:
        factor = judgement.rates[judgement.reference].factor
        warnings.append(
            f"the loss does not fall at your learning rate: sizes are compared at {factor:g} times that rate"
        )
    if judgement.harms and workload.epochs is None:
        warnings.append(
            "the number of your epochs is unknown, so only sizes that are safe for short trainings count: "
            "set `--epochs`"
        )
    return SizeChoice(
        trial=permitted.latest[decision.batch_size],
        why=_why(judgement, workload),
        outlook=outlook,
        judgement=judgement,
        warnings=tuple(warnings),
    )


def _why(judgement: Judgement, workload: Workload) -> str:
    """The gain of the size, and that of the learning rate where another than the rule's was better."""
    decision = judgement.decision
    is_change = decision.action is Action.CHANGE
    text = _change_text(judgement, workload) if is_change else _keep_text(judgement)
    rate = judgement.rates.get(decision.batch_size)
    if rate is None or not rate.log_gain:
        return text
    return f"{text}; the learning rate that was tried lowers the final loss by {1 - exp(-rate.log_gain):.0%}"


def _change_text(judgement: Judgement, workload: Workload) -> str:
    row = next(row for row in judgement.rows if row.batch_size == judgement.decision.batch_size)
    epochs = "at the same epochs" if workload.epochs is None else f"at your {workload.epochs:g} epochs"
    return (
        f"{row.speedup:.2f}x as fast as {judgement.reference:,} {epochs} (90% CI {row.interval[0]:.2f} to "
        f"{row.interval[1]:.2f}), with an expected final loss within {HARM_TOLERANCE:.0%}"
    )


def _keep_text(judgement: Judgement) -> str:
    faster = [row for row in judgement.rows if row.speedup > 1 + TOLERANCE]
    if not faster:
        return f"no other size is more than {TOLERANCE:.0%} faster"
    best = max(faster, key=lambda row: row.speedup)
    if not any(row.batch_size in judgement.harms for row in faster):
        return f"no training shows the final loss of faster sizes (best: {_speedup_text(best)})"
    safe = [row for row in faster if row.safe]
    if safe:
        best = max(safe, key=lambda row: row.speedup)
        return f"no size is surely faster with the same final loss (best: {_speedup_text(best)})"
    nearest = min(faster, key=lambda row: abs(log(row.batch_size / judgement.reference)))
    loss = "a failed training" if nearest.harm is None else f"a final loss {nearest.harm:.2f}x as high"
    speedup = f"{nearest.batch_size:,}: {nearest.speedup:.2f}x as fast"
    return f"faster sizes end at a higher loss at the same epochs ({speedup}, {loss})"


def _speedup_text(row: SameEpochs) -> str:
    low, high = row.interval
    return f"{row.batch_size:,}, {row.speedup:.2f}x, 90% CI {low:.2f} to {high:.2f}"


def _not_below(allowed: TrialSet, size: int) -> TrialSet:
    """The sizes from `size` on, without a check of smaller sizes; where none was timed, the nearest below."""
    left = allowed.only({trial.batch_size for trial in allowed.usable if trial.batch_size >= size})
    if left.timed or not allowed.timed:
        return left if left.usable else allowed
    nearest = left.usable[0] if left.usable else allowed.usable[-1]
    return allowed.only({nearest.batch_size})


def shortest_time(allowed: TrialSet, outlook: Outlook) -> SizeChoice:
    """The size with the shortest expected time to the same loss, or the current size if it is tied."""
    choice, times = outlook.choice, outlook.times
    trial = allowed.latest[choice.batch_size]
    ratios = {size: time / times[choice.batch_size] for size, time in times.items()}
    current = outlook.current_size
    if choice.batch_size == current and choice.best != current:
        why = (
            f"your current size is within {TOLERANCE:.0%} of the shortest expected time to the same loss "
            f"(1.00 against {ratios[choice.best]:.2f} at {choice.best:,})"
        )
        return SizeChoice(trial=trial, why=why, outlook=outlook)
    others = sorted((size for size in ratios if size != choice.batch_size), key=ratios.__getitem__)[:1]
    others += [size for size in (current, max(ratios)) if size in ratios and size != choice.batch_size]
    against = " and ".join(f"{ratios[size]:.2f} at {size:,}" for size in dict.fromkeys(others) if size)
    why = "shortest expected time to the same loss"
    if choice.batch_size != choice.best:
        why = "among the shortest expected times to the same loss, which noise blurs"
    return SizeChoice(
        trial=trial, why=why + (f": 1.00 against {against}" if against else ""), outlook=outlook
    )


def knee(allowed: TrialSet) -> SizeChoice:
    """The smallest size within 5% of the best throughput: the choice where nothing is known of the loss."""
    best = allowed.best
    if best is None:
        return SizeChoice(trial=allowed.usable[-1], why=_NONE_TIMED)
    trial = near_best(allowed.timed)[0]
    why = _knee_text(trial, best, [other for other in allowed.timed if other is not best])
    return SizeChoice(trial=trial, why=why, warnings=_untimed_but_faster(allowed, best))


def _knee_text(trial: Trial, best: Trial, others: Sequence[Trial]) -> str:
    if trial is best and not others:
        return "the only size that was measured"
    if trial is best:
        second = max(others, key=throughput)
        lead = throughput(best) / throughput(second)
        return f"the highest throughput: {lead:.2f} times that of {second.batch_size:,}"
    share = throughput(trial) / throughput(best)
    near_best = f"the smallest size within {TOLERANCE:.0%} of the best throughput"
    return f"{near_best}: {share:.1%} of that at {best.batch_size:,}"


def highest_throughput(permitted: TrialSet) -> SizeChoice:
    """The timed size with the highest throughput."""
    best = permitted.best
    if best is None:
        return SizeChoice(trial=permitted.usable[-1], why=_NONE_TIMED)
    warnings = _untimed_but_faster(permitted, best)
    return SizeChoice(trial=best, why="the highest throughput that was measured", warnings=warnings)


def _untimed_but_faster(allowed: TrialSet, best: Trial) -> tuple[str, ...]:
    """Warn where a row of the table shows a higher throughput than the answer, by too few steps to count."""
    rough = [t for t in allowed.usable if t not in allowed.timed and throughput(t) > throughput(best)]
    if not rough:
        return ()
    sizes = ", ".join(f"{trial.batch_size:,}" for trial in rough)
    return (
        f"batch size {sizes} looked faster, by too few steps to be the answer: "
        "a longer `--budget` leaves time for more",
    )


def largest(permitted: TrialSet) -> SizeChoice:
    """The largest size that fits."""
    return SizeChoice(trial=permitted.usable[-1], why="the largest size that fits, as asked for")


def without_vetoed(permitted: TrialSet, check: Check | None) -> TrialSet:
    """The sizes that no veto excludes; all of them where the vetoes leave none."""
    if check is None or check.batch_size is None or not check.vetoed:
        return permitted
    left = permitted.only(
        next_training.without_vetoed(tuple(permitted.latest), check.batch_size, check.vetoed)
    )
    return left if left.usable else permitted


def limit(
    trials: TrialSet, permitted: TrialSet, chosen: Trial, ceiling: Ceiling, check: Check | None
) -> AnswerLimit | None:
    """The reason why the answer is not larger; None where nothing is known of larger sizes."""
    larger = [t for t in permitted.timed or permitted.usable if t.batch_size > chosen.batch_size]
    if not larger and any(trial.batch_size > chosen.batch_size for trial in trials.timed):
        return AnswerLimit.OPTIONS
    if not larger:
        return _BY_CEILING[ceiling.limited_by]
    above = range(chosen.batch_size + 1, larger[0].batch_size + 1)
    if check is not None and any(veto.batch_size in above for veto in check.vetoed):
        return AnswerLimit.VETO
    highest = max(trial.samples_per_second or 0.0 for trial in larger)
    if not highest or not chosen.samples_per_second:
        return None
    rises = highest > (1 + TOLERANCE) * chosen.samples_per_second
    return AnswerLimit.GENERALIZATION if rises else AnswerLimit.THROUGHPUT


def near_best(trials: Sequence[Trial]) -> list[Trial]:
    """The trials within 5% of the best throughput, in their order."""
    least = (1 - TOLERANCE) * max(map(throughput, trials))
    return [trial for trial in trials if throughput(trial) >= least]

"""Pure: the size for a global batch, divided into batches whose gradients are accumulated.

The global batch size, its learning rate and the number of steps stay, so only the time changes. Speedups are
those of measured steps. Each of these has an optimizer step, so with many accumulation steps a smaller batch
is a little faster than it seems.
"""

from __future__ import annotations

from autobatch.decision.confidence import decide, measured_speedups
from autobatch.decision.judgement import Judgement
from autobatch.decision.same_epochs import HarmEstimate
from autobatch.decision.size_choice import SizeChoice, near_best, nearest_to_current
from autobatch.decision.trial_set import TrialSet
from autobatch.records.recommendation import Action
from autobatch.records.workload import Workload


def divide(permitted: TrialSet, target: int, current_size: int | None, *, least: int = 1) -> Judgement | None:
    """The divisors of `target` beside the batch size that divides it today, and the decision.

    `target`: samples of one rank's optimizer step. `least`: no smaller divisor may be chosen. None where the
    current size was not timed, or is no divisor.
    """
    divisors = permitted.only(
        {size for size in permitted.latest if target % size == 0 and (size >= least or size == current_size)}
    )
    law = divisors.step_time
    reference = next((trial for trial in divisors.timed if trial.batch_size == current_size), None)
    if law is None or reference is None:
        return None
    speedups = measured_speedups(reference, divisors.timed, law)
    harms = {size: HarmEstimate(log_harm=0.0, sd=0.0) for size in speedups}
    size = reference.batch_size
    return Judgement(reference=size, speedups=speedups, harms=harms, decision=decide(size, speedups, harms))


def for_loss_batch(
    permitted: TrialSet, target: int, ranks: int, current_size: int | None, max_batch: int | None = None
) -> SizeChoice:
    """The size for a loss that depends on the rest of the batch, which accumulation can't make larger.

    `target`: one rank's part of the global batch. Where it was not measured, the current size stays.
    `max_batch`: the largest size that was allowed.
    """
    total = f"the global batch size {target * ranks:,}"
    fitting = permitted.only({target}).usable
    if fitting:
        return SizeChoice(trial=fitting[0], why=f"{total} fits at once")
    trial, kept = nearest_to_current(permitted, current_size)
    reason = _above_limit(target, max_batch) or "did not run at once"
    why = f"{kept}: {total} {reason}, and accumulated batches are not a larger one to this loss"
    return SizeChoice(trial=trial, why=why)


def for_global_batch(
    permitted: TrialSet, target: int, ranks: int, workload: Workload, max_batch: int | None = None
) -> SizeChoice:
    """The size that makes up `target`, one rank's part of the global batch, at the highest throughput.

    Where the current batch is a divisor of the target too, it is kept unless another is surely faster. Else
    the largest divisor within 5% of the best throughput of divisors. Where layers normalize over the batch,
    no smaller divisor than the current batch is taken. `max_batch`: the largest size that was allowed.
    """
    total = f"the global batch size {target * ranks:,}"
    current = workload.micro_batch_size
    least = current or 1 if workload.batch_statistics else 1
    judgement = divide(permitted, target, current, least=least)
    if judgement is not None:
        return _divided(permitted, judgement, total, workload)
    divisors = permitted.only({size for size in permitted.latest if target % size == 0})
    if not divisors.usable:
        return SizeChoice(
            trial=permitted.usable[-1],
            why="the largest size that was measured",
            warnings=(f"no size that was measured divides {total}; it is not met",),
        )
    if divisors.usable[-1].batch_size == target:
        return SizeChoice(trial=divisors.usable[-1], why=f"{total} fits at once")
    near = near_best(divisors.usable)
    reason = _above_limit(target, max_batch) or "did not fit at once"
    why = (
        f"{total} {reason}; {near[-1].batch_size:,} divides it "
        "and has the best throughput of the sizes that do"
    )
    return SizeChoice(trial=near[-1], why=why)


def _above_limit(target: int, max_batch: int | None) -> str:
    """The words for a target above the largest size allowed; else empty."""
    is_above = max_batch is not None and target > max_batch
    return f"is above the largest size allowed, {max_batch:,}" if is_above else ""


def _divided(permitted: TrialSet, judgement: Judgement, total: str, workload: Workload) -> SizeChoice:
    """The divisor that was decided for; a warning where its layers see another batch."""
    decision = judgement.decision
    why = f"{total} stays; no other division is surely faster"
    warnings: tuple[str, ...] = ()
    if decision.action is Action.CHANGE:
        (row,) = (row for row in judgement.rows if row.batch_size == decision.batch_size)
        why = (
            f"{row.speedup:.2f}x as fast as batches of {judgement.reference:,} (90% CI {row.interval[0]:.2f} "
            f"to {row.interval[1]:.2f}); {total} and the learning rate stay"
        )
        if workload.batch_statistics:
            warnings = (
                f"{workload.batch_statistics} normalizes over {row.batch_size:,} samples in place of "
                f"{judgement.reference:,}: compare the validation loss",
            )
    return SizeChoice(
        trial=permitted.latest[decision.batch_size], why=why, judgement=judgement, warnings=warnings
    )


def kept_alone(permitted: TrialSet, workload: Workload) -> SizeChoice | None:
    """The current size where another one, applied alone, would change the samples of the training.

    None where it would not, or the current size was not measured.
    """
    size = workload.micro_batch_size
    if size not in permitted.latest or not (workload.accumulation_steps > 1 or workload.counted_in_steps):
        return None
    unit = "accumulation steps" if workload.accumulation_steps > 1 else "steps"
    return SizeChoice(
        trial=permitted.latest[size],
        why=f"the current size: with the same {unit}, another would change the samples of the training",
    )

"""Pure: two results compared, with the part of the measurement that made their answers differ.

The cause is found by exchange: a part of the later result is put into the earlier one, and that is decided
again. Where the answer becomes the later one, that part alone explains the change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from autobatch.decision.recommender import recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check
from autobatch.records.comparison import Cause, ComparedSize, Difference, ResultComparison
from autobatch.records.errors import UsageError
from autobatch.records.formatting import format_bytes
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Trial

Exchange = Callable[[Recommendation, Recommendation], Recommendation]


def compare_results(before: Recommendation, after: Recommendation) -> ResultComparison:
    """Compare two results of a search."""
    explained = before.decidable and after.decidable
    return ResultComparison(
        batch_sizes=(before.batch_size, after.batch_size),
        global_batch_sizes=(before.global_batch_size, after.global_batch_size),
        learning_rates=(before.learning_rate, after.learning_rate),
        confidences=(_confidence(before), _confidence(after)),
        causes=tuple(_causes(before, after)) if explained else (),
        explained=explained,
        relative_time=_relative_time(after, before.batch_size),
        sizes=_sizes(before, after),
        differences=tuple(_differences(before, after)),
    )


def _confidence(answer: Recommendation) -> float | None:
    return None if answer.decision is None else answer.decision.confidence


def _causes(before: Recommendation, after: Recommendation) -> Iterator[Cause]:
    """Yield each part of `after` that gives `before` the answer of `after`."""
    if _answer(before) == _answer(after):
        return
    for cause, exchange in _EXCHANGES.items():
        mixed = exchange(before, after)
        try:
            again = recommend(mixed.curve, mixed.check, mixed.limits)
        except (UsageError, ValueError, ArithmeticError, LookupError):
            continue  # These parts of two results don't go together.
        if _answer(again) == _answer(after):
            yield cause


def _answer(answer: Recommendation) -> tuple[int, int]:
    return answer.batch_size, answer.global_batch_size


def _with_workload(before: Recommendation, after: Recommendation) -> Recommendation:
    return replace(before, workload=after.workload)


def _with_limits(before: Recommendation, after: Recommendation) -> Recommendation:
    return replace(before, limits=after.limits)


def _with_trials(before: Recommendation, after: Recommendation) -> Recommendation:
    return replace(
        before,
        trials=after.trials,
        ceiling=after.ceiling,
        device=after.device,
        loader=after.loader,
        communication=after.communication,
        world_size=after.world_size,
    )


def _with_check(before: Recommendation, after: Recommendation) -> Recommendation:
    return replace(before, check=after.check)


_EXCHANGES: dict[Cause, Exchange] = {
    Cause.WORKLOAD: _with_workload,
    Cause.LIMITS: _with_limits,
    Cause.TRIALS: _with_trials,
    Cause.CHECK: _with_check,
}


def _relative_time(answer: Recommendation, size: int) -> float | None:
    """The time at `size` over that at the recommended size, by the measurements of the answer."""
    if answer.decision is None:
        rows = (row for row in answer.candidates if row.accumulation_steps == 1 and row.batch_size == size)
        return next((row.relative_time for row in rows), None)
    speedups = {row.batch_size: row.speedup for row in answer.same_epochs}
    chosen, other = speedups.get(answer.batch_size), speedups.get(size)
    return chosen / other if chosen and other else None


def _sizes(before: Recommendation, after: Recommendation) -> tuple[ComparedSize, ...]:
    """Each size of either result, ascending."""
    first, second = TrialSet.of(before.curve).latest, TrialSet.of(after.curve).latest
    return tuple(_compared(size, first.get(size), second.get(size)) for size in sorted({*first, *second}))


def _compared(size: int, before: Trial | None, after: Trial | None) -> ComparedSize:
    rates = _rate(before), _rate(after)
    apart = False
    if before is not None and after is not None:
        first, second = before.samples_per_second_interval, after.samples_per_second_interval
        apart = first is not None and second is not None and (first[1] < second[0] or second[1] < first[0])
    return ComparedSize(
        batch_size=size,
        outcomes=(None if before is None else before.outcome, None if after is None else after.outcome),
        samples_per_second=rates,
        peak_bytes=(
            None if before is None else before.peak_bytes,
            None if after is None else after.peak_bytes,
        ),
        speed_ratio=rates[1] / rates[0] if rates[0] and rates[1] else None,
        beyond_noise=apart,
    )


def _rate(trial: Trial | None) -> float | None:
    return None if trial is None or not trial.ok else trial.samples_per_second


def _differences(before: Recommendation, after: Recommendation) -> Iterator[Difference]:
    """Yield the facts that differ, the training first, then the check, the device, limits and versions."""
    second = dict(_facts(after))
    for name, text in _facts(before):
        if text != second[name]:
            yield Difference(name=name, before=text, after=second[name])


def _facts(answer: Recommendation) -> Iterator[tuple[str, str]]:
    """Yield every comparable fact of a result as (name, text), the same names for every result."""
    workload, device, limits, environment = answer.workload, answer.device, answer.limits, answer.environment
    for name in ("model", "parameters", "dataset", "dataset_size", "loss", "optimizer", "learning_rate"):
        yield name.replace("_", " "), _text(getattr(workload, name))
    yield "current batch size", _text(workload.batch_size)
    yield "epochs", _text(workload.epochs)
    yield "precision", _text(workload.precision)
    yield "critical batch size", _critical_text(answer.check)
    yield "device", f"{device.name} ({device.label})"
    yield "ranks", _text(answer.world_size)
    yield "threads", _text(device.threads)
    yield "memory limit", "" if device.limit_bytes is None else format_bytes(device.limit_bytes)
    yield "largest that fits", _text(answer.ceiling.batch_size)
    for name in ("objective", "min_batch", "max_batch", "multiple_of", "global_batch", "budget_seconds"):
        yield name.replace("_", " "), _text(getattr(limits, name))
    for name in ("autobatch", "torch", "python", "platform", "cpu"):
        yield name, "" if environment is None else getattr(environment, name)


def _critical_text(check: Check | None) -> str:
    if check is None or check.critical_batch_size is None or check.interval is None:
        return ""
    low, high = check.interval
    end = "open" if high is None else f"{high:,.0f}"
    return f"{check.critical_batch_size:,.0f} (90% CI {low:,.0f} to {end})"


def _text(value: float | str | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"

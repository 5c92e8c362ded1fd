"""The answer: the headline, its speedup and confidence, its memory, and a faster way that changes more."""

from __future__ import annotations

from autobatch.records.formatting import format_bytes
from autobatch.records.recommendation import (
    Action,
    Alternative,
    AlternativeKind,
    Comparison,
    Decision,
    Recommendation,
    SameEpochs,
)
from autobatch.reports.text.lines import Line, cells, clean, counted, flow, hang
from autobatch.reports.text.same_epochs_table import ratio_text
from autobatch.reports.text.size_marks import reference

UNCHECKED = "convergence not checked"
SYNTHETIC = "random inputs"
_USE, _KEEP, _STOP = "✔ ", "= ", "■ "
_INDENT = "  "
# The current settings stand in this column, or directly behind a long answer.
_CURRENT_COLUMN, _CURRENT_GAP = 51, 4


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out the headline and the facts of the answer below it."""
    laid_out = _headline_lines(recommendation, width)
    for parts in _facts(recommendation):
        laid_out += flow(parts, width, indent=_INDENT)
    return laid_out


def alternative_lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out a line for each faster way that changes more than the batch size."""
    laid_out: list[Line] = []
    for text in alternatives(recommendation):
        laid_out += hang(_INDENT, text, width)
    return laid_out


def summary(recommendation: Recommendation) -> str:
    """The answer, its speedup or reason, and its memory, a line each."""
    return "\n".join([headline(recommendation), *facts(recommendation)])


def headline(recommendation: Recommendation) -> str:
    """Return the answer in a few words, such as `Use batch size 64, learning rate 0.0025`."""
    if recommendation.stopped:
        sizes = len({trial.batch_size for trial in recommendation.trials})
        return f"Stopped after {counted(sizes, 'size')}; no recommendation."
    verb = "Keep" if is_kept(recommendation) else "Use"
    factors = [f"batch size {recommendation.batch_size:,}"]
    if recommendation.accumulation_steps != 1:
        factors.append(f"{recommendation.accumulation_steps:,} accumulation steps")
    if recommendation.world_size != 1:
        factors.append(f"{recommendation.world_size:,} ranks")
    text = f"{verb} {' x '.join(factors)}"
    if len(factors) > 1:
        text += f" = {recommendation.global_batch_size:,}"
    if recommendation.learning_rate is not None:
        text += f", learning rate {recommendation.learning_rate:.2g}"
    elif recommendation.learning_rate_factor not in (None, 1):
        text += f", learning rates × {recommendation.learning_rate_factor:.3g}"
    return text


def current_text(recommendation: Recommendation) -> str:
    """Return the current settings that the answer changes, as `current: 32, 0.002`; empty without any."""
    size, rate = recommendation.workload.batch_size, recommendation.workload.learning_rate
    if recommendation.stopped or size is None:
        return ""
    parts = [] if size == recommendation.batch_size else [f"{size:,}"]
    recommended = recommendation.learning_rate
    if rate is not None and recommended is not None and f"{rate:.2g}" != f"{recommended:.2g}":
        parts.append(f"{rate:.2g}")
    return f"current: {', '.join(parts)}" if parts else ""


def is_kept(recommendation: Recommendation) -> bool:
    """True where the decision is to keep the current size, or the answer is the current size."""
    decision = recommendation.decision
    if decision is not None:
        return decision.action is Action.KEEP
    return recommendation.batch_size == recommendation.workload.batch_size


def facts(recommendation: Recommendation) -> list[str]:
    """Return the sentences below the headline: speedup or reason with the confidence, memory, schedule."""
    return [" · ".join(parts) for parts in _facts(recommendation)]


def _facts(recommendation: Recommendation) -> list[list[str]]:
    """Return the parts of each line below the headline."""
    lines = [_reason_and_confidence(recommendation), _memory(recommendation)]
    if recommendation.schedule:
        lines.append([_schedule_text(recommendation)])
    return [parts for parts in (*lines, _sizes_per_rank(recommendation)) if parts]


def _reason_and_confidence(recommendation: Recommendation) -> list[str]:
    decision, check = recommendation.decision, recommendation.check
    if recommendation.stopped:
        return []
    parts = [reason_text(recommendation)]
    if decision is not None:
        parts.append(confidence_text(decision))
    elif recommendation.workload.synthetic:
        parts.append(SYNTHETIC)
    elif check is None or (check.critical_batch_size is None and not check.trainings):
        parts.append(UNCHECKED)
    return [part for part in parts if part]


def reason_text(recommendation: Recommendation) -> str:
    """Return the speedup with its interval where there is one, else the reason of the answer."""
    row = _decided_row(recommendation)
    if row is not None:
        return _speedup_text(row, recommendation)
    if recommendation.current is not None and recommendation.current.batch_size != recommendation.batch_size:
        return _comparison_text(recommendation.current)
    why = clean(recommendation.why)
    return why[:1].upper() + why[1:]


def _decided_row(recommendation: Recommendation) -> SameEpochs | None:
    """Return the row of the size that the decision changes to."""
    if recommendation.decision is None or is_kept(recommendation):
        return None
    size = recommendation.batch_size
    return next((row for row in recommendation.same_epochs if row.batch_size == size), None)


def _speedup_text(row: SameEpochs, recommendation: Recommendation) -> str:
    size, epochs = reference(recommendation), recommendation.epochs
    than = f" than batch size {size:,}" if size not in (None, recommendation.workload.batch_size) else ""
    at = "the same epochs" if epochs is None else f"your {epochs:g} epochs"
    low, high = map(ratio_text, row.interval)
    loss = ", expected loss within 2%" if row.harm is not None and row.safe else ""
    return f"{ratio_text(row.speedup)}x faster{than} at {at}{loss} (90% CI {low} to {high})"


def _comparison_text(current: Comparison) -> str:
    low, high = ratio_text(current.low), ratio_text(current.high)
    speedup = f"{ratio_text(current.relative_time)}x faster to the same loss (90% CI {low} to {high})"
    epochs = f"{current.epochs_ratio:.2g}"
    return speedup if epochs == "1" else f"{speedup}; needs {epochs}x the epochs"


def confidence_text(decision: Decision) -> str:
    """Return the confidence in words and as a number."""
    return f"confidence {decision.level} ({decision.confidence:.0%})"


def _memory(recommendation: Recommendation) -> list[str]:
    peak = recommendation.chosen.peak_bytes
    parts = [] if peak is None or recommendation.stopped else [f"{format_bytes(peak)} at peak"]
    largest = f"largest measured that fits: {recommendation.ceiling.batch_size:,}"
    return [*parts, largest] if parts else [largest.capitalize()]


def _schedule_text(recommendation: Recommendation) -> str:
    current = {count.name: count.steps for count in recommendation.workload.schedule}
    parts = [
        f"{clean(count.name)} {count.steps:,}"
        + (f" (was {current[count.name]:,})" if count.name in current else "")
        for count in recommendation.schedule
    ]
    return f"Set {', '.join(parts)}: as many samples as before"


def _sizes_per_rank(recommendation: Recommendation) -> list[str]:
    measured = recommendation.sizes_per_rank
    if measured is None or not measured.step_seconds or not measured.common_step_seconds:
        return []
    step, common = measured.step_seconds, measured.common_step_seconds
    if step >= common:
        return []
    sizes = ", ".join(map(str, measured.batch_sizes))
    return [f"{ratio_text(common / step)}x faster with a size for each rank: {sizes}"]


def alternatives(recommendation: Recommendation) -> list[str]:
    """Return a sentence for each faster way that changes more than the batch size."""
    return [_alternative_text(alternative) for alternative in recommendation.alternatives]


def _alternative_text(alternative: Alternative) -> str:
    size, speedup = f"batch size {alternative.batch_size:,}", f"{ratio_text(alternative.speedup)}x"
    low, high = map(ratio_text, alternative.interval)
    interval = f"(90% CI {low} to {high})"
    match alternative.kind:
        case AlternativeKind.MORE_EPOCHS:
            epochs = f"{alternative.epochs_ratio:.2g}x the epochs"
            if alternative.epochs is not None:
                epochs += f" ({alternative.epochs:,})"
            text = f"With {epochs}, {size} reaches that loss {speedup} sooner {interval}"
            return f"{text}: `--objective time-to-loss`"
        case AlternativeKind.GLOBAL_BATCH:
            factor = alternative.learning_rate_factor
            rate = "" if factor is None else f" and the learning rate x {factor:.3g}"
            text = f"Without accumulation, {size}{rate} trains {speedup} as fast as today {interval}"
            return f"{text}, with an expected final loss within 2%"


def _headline_lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out the headline, with the current settings to its right where there is room."""
    mark, style = (_KEEP, "bold") if is_kept(recommendation) else (_USE, "bold green")
    if recommendation.stopped:
        mark, style = _STOP, "bold yellow"
    text, current = headline(recommendation), current_text(recommendation)
    start = max(_CURRENT_COLUMN, cells(mark + text) + _CURRENT_GAP)
    if current and start + cells(current) <= width:
        gap = " " * (start - cells(mark + text))
        return [((mark, style), (text, style), (gap + current, "dim"))]
    laid_out = hang(mark, text, width, style=style, label_style=style)
    return laid_out + (hang(_INDENT, current, width, style="dim") if current else [])

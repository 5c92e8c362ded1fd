"""The answer under the tables: one labelled statement for each fact, the recommendation and each warning."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.check import Check, CheckStatus, LossKind
from autobatch.records.formatting import format_short_duration
from autobatch.records.recommendation import (
    Alternative,
    AnswerLimit,
    Comparison,
    Decision,
    Recommendation,
)
from autobatch.reports.text import measurements, same_epochs_table, scaling_table, training_table
from autobatch.reports.text.lines import Line, clean, counted, hang

SYNTHETIC = "memory and speed only: inputs are random"
UNCHECKED = "quality check: not run; the choice comes from throughput alone"
# A regret bound this close to 1 is not worth a word.
_MIN_REGRET_BOUND = 1.02


@dataclass(frozen=True, slots=True)
class Statement:
    """A labelled sentence about an answer. `tone`: `` (plain), `use` (the answer) or `doubt` (a warning)."""

    label: str
    text: str
    tone: str = ""


_LABEL_CELLS = 7
# The styles of text and label, by tone.
_STYLES = {"": ("", "bold"), "use": ("bold green", "bold green"), "doubt": ("", "bold yellow")}


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out the tables of the check and of the devices, and every statement beside its label."""
    lines: list[Line] = []
    # The expected times to the same loss are about another question than a decision's.
    of_check = training_table if recommendation.decision is None else same_epochs_table
    for rows in (of_check.lines(recommendation, width), scaling_table.lines(recommendation, width)):
        lines += [*rows, ()] if rows else []
    for statement in statements(recommendation):
        style, label_style = _STYLES[statement.tone]
        label = statement.label.ljust(_LABEL_CELLS)
        lines += hang(label, statement.text, width, style=style, label_style=label_style)
    return lines


def summary(recommendation: Recommendation) -> str:
    """The answer, its reason and its confidence, a line each."""
    texts = [_use_text(recommendation), clean(recommendation.why)]
    if recommendation.decision is not None:
        texts.append(confidence_text(recommendation.decision))
    return "\n".join(text for text in texts if text)


def statements(recommendation: Recommendation) -> list[Statement]:
    """Make the statements of every report, in order; each text is on one line and steers no terminal."""
    check, workload, loader = recommendation.check, recommendation.workload, recommendation.loader
    world_size = recommendation.world_size
    facts = [
        ("fits", measurements.ceiling_text(recommendation.ceiling, workload)),
        ("memory", measurements.allocator_text(recommendation)),
    ]
    made = [Statement(label, text) for label, text in facts if text]
    if workload.synthetic:
        made.append(Statement("data", SYNTHETIC, "doubt"))
    if workload.sizes is not None and workload.sizes.vary:
        sizes = measurements.sizes_text(recommendation.batch_size, workload.sizes, workload.dataset_size)
        made.append(Statement("data", sizes))
    if speed := measurements.speed_text(recommendation):
        made.append(Statement("speed", speed))
    if loader is not None and loader.timings:
        made.append(Statement("loader", measurements.loader_text(recommendation, loader)))
    made += _ranks(recommendation)
    made.append(Statement("check", UNCHECKED if check is None else _check_text(check, world_size)))
    made.append(Statement("use", _use_text(recommendation), "use"))
    made.append(Statement("why", clean(_why_text(recommendation))))
    if recommendation.decision is not None:
        made.append(Statement("sure", confidence_text(recommendation.decision)))
    made += [Statement("also", _alternative_text(alternative)) for alternative in recommendation.alternatives]
    if recommendation.current is not None:
        made.append(Statement("gain", _gain_text(recommendation.current)))
    if recommendation.schedule:
        made.append(Statement("steps", _schedule_text(recommendation)))
    if recommendation.cached:
        made.append(Statement("cache", measurements.cache_text(recommendation.environment)))
    return made + [Statement("warn", clean(warning), "doubt") for warning in recommendation.warnings]


def _ranks(recommendation: Recommendation) -> list[Statement]:
    """Make the statements about several ranks."""
    texts = []
    if recommendation.communication is not None:
        texts.append(
            scaling_table.communication_text(recommendation.communication, recommendation.world_size)
        )
    if recommendation.scaling is not None and recommendation.scaling.counts:
        texts.append(scaling_table.scaling_text(recommendation.scaling))
    if recommendation.sizes_per_rank is not None:
        texts.append(scaling_table.sizes_text(recommendation.sizes_per_rank))
    return [Statement("ranks", text) for text in texts]


def _check_text(check: Check, ranks: int) -> str:
    if check.loss_kind is LossKind.BATCH_DEPENDENT:
        trainings = counted(len(check.trainings), "training")
        return f"quality check: {trainings} alone, as the loss depends on the rest of the batch"
    if check.critical_batch_size is None or check.interval is None:
        return f"quality check: not run: {clean(check.detail)}; the choice comes from throughput alone"
    low, high = check.interval
    upper = "open" if high is None else f"{high:,.0f}"
    over = f" over {ranks:,} ranks" if ranks > 1 else ""
    size = f"critical batch size {check.critical_batch_size:,.0f}{over} (90%: {low:,.0f} to {upper})"
    return f"{size}, {clean(_evidence(check))}"


def _evidence(check: Check) -> str:
    """Say what the critical batch size was estimated from."""
    noise = "from the gradient's noise"
    if check.status is CheckStatus.NOISE_ONLY or not check.trainings:
        return f"{noise} alone" + (f": {check.detail}" if check.detail else "")
    longest = format_short_duration(max(training.seconds for training in check.trainings))
    trainings = counted(len(check.trainings), "training")
    evidence = f"{noise} and {trainings} of {longest}, judged on {check.held_out}"
    if check.vetoed:
        sizes = ", ".join(f"{veto.batch_size:,}" for veto in check.vetoed)
        evidence += f"; vetoed: {sizes}"
    return evidence


def _why_text(recommendation: Recommendation) -> str:
    limits = {
        AnswerLimit.MEMORY: "larger sizes don't fit",
        AnswerLimit.THROUGHPUT: "larger sizes hardly raise the throughput",
        AnswerLimit.GENERALIZATION: "larger sizes need more samples than their throughput makes up for",
        AnswerLimit.VETO: "the next larger size trained worse",
        AnswerLimit.DATASET: "the data set is no larger",
        AnswerLimit.OPTIONS: "larger sizes were not measured",
    }
    by = recommendation.limited_by
    if recommendation.decision is not None and by is AnswerLimit.GENERALIZATION:
        by = None  # The reason of the decision says why.
    text = recommendation.why + (f"; {limits[by]}" if by is not None else "")
    bound = recommendation.regret_bound
    if bound is not None and bound >= _MIN_REGRET_BOUND:
        text += f"; at worst {bound:.2f} times as long as at the best size, by the interval"
    return text


def confidence_text(decision: Decision) -> str:
    return f"confidence {decision.level}: {decision.confidence:.0%} that this decision is right"


def _alternative_text(alternative: Alternative) -> str:
    """A change of the epochs that reaches the current loss in less time."""
    epochs = f"{alternative.epochs_ratio:.2g}x the epochs"
    if alternative.epochs is not None:
        epochs += f" ({alternative.epochs:,})"
    low, high = alternative.interval
    faster = f"{alternative.speedup:.2f}x sooner (90% CI {low:.2f} to {high:.2f})"
    size = f"batch size {alternative.batch_size:,}"
    return f"with {epochs}, {size} reaches the same loss {faster}: `--objective time-to-loss`"


def _gain_text(current: Comparison) -> str:
    """Compare the time and the epochs to the same loss with those at the current size."""
    text = f"{current.relative_time:.2f} times as quick to the same loss as {current.batch_size:,}"
    text += f" (90%: {current.low:.2f} to {current.high:.2f})"
    return f"{text}, in {current.epochs_ratio:.2f} times as many epochs"


def _schedule_text(recommendation: Recommendation) -> str:
    current = {count.name: count.steps for count in recommendation.workload.schedule}
    parts = [
        f"{clean(count.name)} {count.steps:,}"
        + (f" instead of {current[count.name]:,}" if count.name in current else "")
        for count in recommendation.schedule
    ]
    return f"{', '.join(parts)}: as many samples as before"


def _use_text(recommendation: Recommendation) -> str:
    factors = [f"batch size {recommendation.batch_size}"]
    if recommendation.accumulation_steps != 1:
        factors.append(f"{recommendation.accumulation_steps} accumulation steps")
    if recommendation.world_size != 1:
        factors.append(f"{recommendation.world_size} ranks")
    text = " x ".join(factors)
    if len(factors) > 1:
        text += f" = {recommendation.global_batch_size}"
    if recommendation.learning_rate is not None:
        text += f", learning rate {recommendation.learning_rate:.2g}"
    elif recommendation.learning_rate_factor is not None:
        text += f", learning rates × {recommendation.learning_rate_factor:.3g}"
    return text

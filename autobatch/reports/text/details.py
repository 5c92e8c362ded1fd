"""The facts behind an answer, which the report shows with `-v`: one labelled statement for each."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.check import Check, CheckStatus, LossKind
from autobatch.records.formatting import format_short_duration
from autobatch.records.recommendation import AnswerLimit, Environment, Recommendation
from autobatch.reports.relative_times import relative_times
from autobatch.reports.text import answer, measurements, scaling_table
from autobatch.reports.text.lines import Line, clean, counted, hang

NOT_CHECKED = "not run; the choice comes from throughput alone"
_LABEL_CELLS = 9
# A worst case this close to the best is not worth a word.
_LEAST_REGRET = 1.02
_LIMITS = {
    AnswerLimit.MEMORY: "larger sizes don't fit",
    AnswerLimit.SIZE_LIMIT: "larger sizes fail for a reason other than memory",
    AnswerLimit.THROUGHPUT: "larger sizes hardly raise the throughput",
    AnswerLimit.GENERALIZATION: "larger batches run faster but need too many extra epochs",
    AnswerLimit.VETO: "the next larger size trained worse",
    AnswerLimit.DATASET: "the data set is no larger",
    AnswerLimit.OPTIONS: "larger sizes were not measured",
}

_HIGHER_LOSS = "larger batches run faster, but are expected to end at a higher loss"


@dataclass(frozen=True, slots=True)
class Statement:
    """A labelled sentence about an answer."""

    label: str
    text: str


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out every statement beside its label."""
    laid_out: list[Line] = []
    for statement in statements(recommendation):
        label = statement.label.ljust(_LABEL_CELLS)
        laid_out += hang(label, statement.text, width, label_style="bold")
    return laid_out


def statements(recommendation: Recommendation) -> list[Statement]:
    """Make the statements, in order; each text is on one line and steers no terminal."""
    check, workload, loader = recommendation.check, recommendation.workload, recommendation.loader
    made = [
        Statement("why", _why_text(recommendation)),
        Statement("fits", measurements.ceiling_text(recommendation.ceiling, workload)),
        Statement("memory", measurements.allocator_text(recommendation)),
    ]
    if workload.sizes is not None and workload.sizes.vary:
        sizes = measurements.sizes_text(recommendation.batch_size, workload.sizes, workload.dataset_size)
        made.append(Statement("data", sizes))
    made.append(Statement("speed", measurements.speed_text(recommendation)))
    if loader is not None and loader.timings:
        made.append(Statement("loading", measurements.loader_text(recommendation, loader)))
    made += [Statement("ranks", text) for text in _ranks_texts(recommendation)]
    made.append(
        Statement("check", NOT_CHECKED if check is None else _check_text(check, recommendation.world_size))
    )
    if recommendation.environment is not None:
        made.append(Statement("versions", versions_text(recommendation.environment)))
    return [statement for statement in made if statement.text]


def _ranks_texts(recommendation: Recommendation) -> list[str]:
    texts = []
    if recommendation.communication is not None:
        texts.append(
            scaling_table.communication_text(recommendation.communication, recommendation.world_size)
        )
    if recommendation.scaling is not None and recommendation.scaling.counts:
        texts.append(scaling_table.scaling_text(recommendation.scaling))
    if recommendation.sizes_per_rank is not None:
        texts.append(scaling_table.sizes_text(recommendation.sizes_per_rank))
    return texts


def _check_text(check: Check, ranks: int) -> str:
    if check.loss_kind is LossKind.BATCH_DEPENDENT:
        trainings = counted(len(check.trainings), "training")
        return f"{trainings} alone, as the loss depends on the rest of the batch"
    if check.critical_batch_size is None or check.interval is None:
        reason = f": {clean(check.detail)}" if check.detail else ""
        return f"not run{reason}; the choice comes from throughput alone"
    low, high = check.interval
    upper = "open" if high is None else f"{high:,.0f}"
    over = f" over {ranks:,} ranks" if ranks > 1 else ""
    size = f"critical batch size {check.critical_batch_size:,.0f}{over} (90% CI {low:,.0f} to {upper})"
    return f"{size}, {clean(_evidence(check))}"


def _evidence(check: Check) -> str:
    """Say what the critical batch size was estimated from."""
    noise = "from the gradient noise"
    if check.status is CheckStatus.NOISE_ONLY or not check.trainings:
        return f"{noise} alone" + (f": {check.detail}" if check.detail else "")
    longest = format_short_duration(max(training.seconds for training in check.trainings))
    trainings = counted(len(check.trainings), "short training")
    evidence = f"{noise} and {trainings} of up to {longest}, judged on {check.held_out}"
    if check.vetoed:
        sizes = ", ".join(f"{veto.batch_size:,}" for veto in check.vetoed)
        evidence += f"; vetoed: {sizes}"
    return evidence


def _why_text(recommendation: Recommendation) -> str:
    """Say why the answer is not larger, and what the answer itself leaves out of the reason."""
    if recommendation.stopped:
        return ""
    parts = []
    why = clean(recommendation.why)
    if recommendation.decision is None and why.lower() != answer.reason_text(recommendation).lower():
        parts.append(why)
    parts.append(limit_text(recommendation))
    bound = recommendation.regret_bound
    if bound is not None and bound >= _LEAST_REGRET:
        parts.append(f"worst case (90% CI): {100 * (bound - 1):,.0f}% slower than the true best")
    return "; ".join(part for part in parts if part)


def limit_text(recommendation: Recommendation) -> str:
    """Say why the answer is not larger; empty where its own reason says that, or nothing is known."""
    by = recommendation.limited_by
    if recommendation.decision is None:
        return "" if by is None else _LIMITS[by]
    if answer.is_kept(recommendation):
        return ""
    larger = [row for row in recommendation.same_epochs if row.batch_size > recommendation.batch_size]
    times = relative_times(recommendation)
    if any(not row.safe and row.harm and times.get(row.batch_size, 1.0) < 1 for row in larger):
        return _HIGHER_LOSS
    return "" if by in (None, AnswerLimit.GENERALIZATION) else _LIMITS[by]


def versions_text(environment: Environment) -> str:
    """Return the versions and the platform of the measurement."""
    names = ("autobatch", environment.autobatch), ("torch", environment.torch), ("Python", environment.python)
    parts = [f"{name} {clean(version)}" for name, version in names if version]
    return ", ".join([*parts, *(clean(text) for text in (environment.platform,) if text)])

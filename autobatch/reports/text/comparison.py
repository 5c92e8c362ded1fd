"""Two results for a terminal: both answers, the reason for the change, each size, and other differences."""

from __future__ import annotations

from autobatch._version import __version__
from autobatch.records.comparison import Cause, ComparedSize, ResultComparison
from autobatch.records.formatting import MISSING, format_bytes, format_rate
from autobatch.records.trial import Outcome
from autobatch.reports.text.lines import Line, clean, hang, join, paint
from autobatch.reports.text.same_epochs_table import ratio_text
from autobatch.reports.text.table import fit, size_text

_CAUSES = {
    Cause.WORKLOAD: "the training differs",
    Cause.LIMITS: "the limits of the search differ",
    Cause.TRIALS: "speed or memory of the sizes differs",
    Cause.CHECK: "the gradient noise or the short trainings differ",
}
# Column titles and widths; the batch size comes first.
_BATCH = 8
_WIDTHS = {"before": 11, "after": 11, "speed": 9, "memory before": 15, "memory after": 14}
_MEMORY = ("memory before", "memory after")
# The mark of a ratio whose intervals overlap.
_NOISE = "noise"
_LABEL_CELLS = 21


def render(comparison: ResultComparison, *, width: int = 80, colour: bool = False) -> str:
    """Render the whole comparison."""
    width = max(width, 40)
    lines = join([f"autobatch {__version__}", "two results compared"], width, first_style="bold")
    lines += [(), *_answer(comparison, width), (), *_table(comparison, width)]
    if comparison.differences:
        lines.append(())
    for difference in comparison.differences:
        before, after = (clean(text) or MISSING for text in (difference.before, difference.after))
        label = difference.name.ljust(_LABEL_CELLS)
        lines += hang(label, f"{before} → {after}", width, label_style="bold")
    return paint(lines, colour=colour)


def _answer(comparison: ResultComparison, width: int) -> list[Line]:
    """Lay out both answers, the cause of a change, and the price of the earlier answer."""
    (before, after), rates = comparison.batch_sizes, comparison.learning_rates
    changed = before != after
    text = f"Batch size {before:,} → {after:,}" if changed else f"Same batch size: {before:,}"
    if comparison.global_batch_sizes != comparison.batch_sizes:
        first, second = comparison.global_batch_sizes
        text += f", global batch size {first:,} → {second:,}" if first != second else f" ({first:,} in all)"
    if None not in rates:
        first_rate, second_rate = (f"{rate:.2g}" for rate in rates)
        if first_rate != second_rate:
            text += f", learning rate {first_rate} → {second_rate}"
    lines = hang("", text, width, style="bold green" if not changed else "bold yellow")
    for fact in _reasons(comparison):
        lines += hang("  ", fact, width)
    return lines


def _reasons(comparison: ResultComparison) -> list[str]:
    texts = []
    if comparison.batch_sizes[0] != comparison.batch_sizes[1]:
        texts.append(_cause_text(comparison))
        time = comparison.relative_time
        if time is not None:
            texts.append(
                f"By the later measurements, {comparison.batch_sizes[0]:,} takes {ratio_text(time)}x the time"
            )
    if None not in comparison.confidences:
        first, second = comparison.confidences
        texts.append(f"Confidence {first:.0%} → {second:.0%}")
    return texts


def _cause_text(comparison: ResultComparison) -> str:
    if not comparison.explained:
        return "Why is unknown: a result of an older version can't be decided again"
    if not comparison.causes:
        return "Why: no single part explains it, several differ together"
    causes = "; or: ".join(_CAUSES[cause] for cause in comparison.causes)
    return f"Why: {causes}"


def _table(comparison: ResultComparison, width: int) -> list[Line]:
    """Lay out samples per second and memory of each size in both results."""
    room = width - _BATCH - len(_NOISE) - 2
    columns = {
        name: span for name, span in _WIDTHS.items() if sum(_WIDTHS.values()) <= room or name not in _MEMORY
    }
    title = "".join(fit(name, span) for name, span in columns.items())
    caption = "Samples per second" + (" and peak memory" if len(columns) == len(_WIDTHS) else "")
    lines = hang("   ", f"{caption}; {_NOISE}: the 90% intervals overlap", width, style="dim")
    lines.append((("batch".rjust(_BATCH) + title, "dim"),))
    for size in comparison.sizes:
        figures = _figures(size)
        shown = "".join(fit(figures[name], span) for name, span in columns.items())
        remark = _NOISE if size.speed_ratio is not None and not size.beyond_noise else ""
        cells = fit(size_text(size.batch_size), _BATCH) + shown
        fits = len(cells) + len(remark) + 2 <= width
        lines.append(((cells, ""), (f"  {remark}" if remark and fits else "", "dim")))
    return lines


def _figures(size: ComparedSize) -> dict[str, str]:
    before, after = (
        format_rate(rate) if outcome in (None, Outcome.OK) else _failure(outcome)
        for rate, outcome in zip(size.samples_per_second, size.outcomes, strict=True)
    )
    return {
        "before": before,
        "after": after,
        "speed": MISSING if size.speed_ratio is None else f"{ratio_text(size.speed_ratio)}x",
        "memory before": format_bytes(size.peak_bytes[0]),
        "memory after": format_bytes(size.peak_bytes[1]),
    }


def _failure(outcome: Outcome) -> str:
    return "no memory" if outcome is Outcome.OUT_OF_MEMORY else outcome.replace("_", " ")

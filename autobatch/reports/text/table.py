"""The table of trials: the choice of rows, and each row in columns of constant width.

The progress and the final report draw the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from statistics import median

from autobatch.records.formatting import (
    MISSING,
    format_bytes,
    format_count,
    format_percent,
    format_rate,
    format_short_duration,
)
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome, Trial
from autobatch.records.workload import Workload
from autobatch.reports.text.lines import Line, cells, clean, hang, shorten, wrap

USE, NOW = "<- use", "<- now"

# Column titles and widths. The batch size comes first, with its indent, and the bar last. If two spaces
# between all columns don't fit, columns of short figures have one.
_BATCH = 7
_WIDTHS = {"steps/epoch": 11, "epoch": 7, "samples/s": 12, "step": 7, "memory": 8, "util": 4}
COLUMNS = tuple(_WIDTHS)
_WIDE = dict.fromkeys(_WIDTHS, 2)
_TIGHT = {**_WIDE, "epoch": 1, "samples/s": 1, "util": 1}
# The columns that a narrow terminal loses, in this order.
_EXPENDABLE = ("util", "steps/epoch", "epoch", "memory", "step")
_MARK = len(USE) + 1
_SHORTEST_BAR, _LONGEST_BAR = 4, 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_FAILURE = {
    Outcome.OUT_OF_MEMORY: ("out of memory", "yellow"),
    Outcome.CRASHED: ("crashed", "red"),
    Outcome.TIMEOUT: ("timed out", "red"),
    Outcome.FAILED: ("failed", "red"),
}
_FAILURE_LINES = 3
# More refinement rows than this become one line with their number.
_REFINEMENTS = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that fit, each with its cells and the gap before it, and the longest bar."""

    columns: dict[str, int]
    bar: int
    width: int


def layout(workload: Workload, width: int) -> Layout:
    """Return the widest table that `width` columns hold; no epochs without the size of the data set."""
    width = max(width, 40)
    columns = [name for name in _WIDTHS if workload.dataset_size is not None or "epoch" not in name]
    for expendable in (None, *_EXPENDABLE):
        columns = [name for name in columns if name != expendable]
        for gaps in (_WIDE, _TIGHT):
            spans = {name: gaps[name] + _WIDTHS[name] for name in columns}
            room = width - _BATCH - sum(spans.values()) - 2 - _MARK
            if room >= _SHORTEST_BAR:
                return Layout(spans, min(room, _LONGEST_BAR), width)
    return Layout(spans, 0, width)


def titles(plan: Layout) -> Line:
    """Lay out the line of column titles."""
    names = "".join(name.rjust(span) for name, span in plan.columns.items())
    return (("batch".rjust(_BATCH) + names, "dim"),)


def trial_row(trial: Trial, plan: Layout, *, best: float | None = None, mark: str = "") -> list[Line]:
    """Lay out one trial: a line of figures with its bar, or up to three lines on its failure.

    `best`: the samples per second of a full bar; None draws no bar.
    """
    size = fit(size_text(trial.batch_size), _BATCH)
    if not trial.ok:
        return _failed_row(size, trial, plan)
    texts = figures(trial)
    shown = "".join(fit(texts[name], _WIDTHS[name]).rjust(span) for name, span in plan.columns.items())
    style = "bold green" if mark == USE else ""
    drawn = bar(trial.samples_per_second, best, plan.bar)
    tail = f" {mark}" if mark else ""
    return [((size, style), (shown, style), (f"  {drawn}", style or "cyan"), (tail, style or "dim"))]


def size_text(batch_size: int) -> str:
    """Write a batch size without separators, for copying; in short if no column holds it."""
    text = str(batch_size)
    return text if len(text) <= _BATCH else f"{Decimal(text):.1e}"


def figures(trial: Trial) -> dict[str, str]:
    """Return the figures of a trial that passed, by the title of their column."""
    return {
        "steps/epoch": format_count(trial.steps_per_epoch),
        "epoch": format_short_duration(trial.epoch_seconds),
        "samples/s": format_rate(trial.samples_per_second, trial.samples_per_second_interval),
        "step": format_short_duration(median(trial.step_seconds)) if trial.step_seconds else MISSING,
        "memory": format_bytes(trial.peak_bytes),
        "util": format_percent(trial.utilisation),
    }


def failure_text(trial: Trial) -> str:
    """Describe the failure of a trial on one line."""
    failure, _ = _FAILURE.get(trial.outcome, _FAILURE[Outcome.FAILED])
    if trial.phase:
        failure += f" during {clean(trial.phase)}"
    detail = clean(trial.detail)
    return f"{failure}: {detail}" if detail else failure


def _failed_row(size: str, trial: Trial, plan: Layout) -> list[Line]:
    text = failure_text(trial)
    _, style = _FAILURE.get(trial.outcome, _FAILURE[Outcome.FAILED])
    first, *rest = wrap(text, plan.width - _BATCH - 3)
    if len(rest) >= _FAILURE_LINES:
        rest = [
            *rest[: _FAILURE_LINES - 2],
            shorten(" ".join(rest[_FAILURE_LINES - 2 :]), plan.width - _BATCH - 3),
        ]
    indent = " " * (_BATCH + 3)
    return [((size, ""), ("   ", ""), (first, style)), *(((indent, ""), (line, style)) for line in rest)]


def bar(value: float | None, best: float | None, width: int) -> str:
    """Draw `value` as a bar, exact to an eighth of a cell; `best` would take `width` cells."""
    if value is None or best is None or not (isfinite(value) and value > 0 and best > 0):
        return ""
    eighths = max(1, round(min(value / best, 1.0) * width * 8)) if width else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def rows(recommendation: Recommendation, plan: Layout) -> list[Line]:
    """Lay out the final table by batch size, with bars and marks; many refinements are folded."""
    chosen = recommendation.chosen
    current = recommendation.workload.batch_size
    shown, folded, failures = sorted_out(recommendation)
    best = max((rate_of(trial) for trial in (*shown, *folded) if trial.ok), default=0.0)
    lines: list[Line] = []
    for trial in shown:
        if folded and trial.batch_size > folded[0].batch_size:
            lines += _folded_rows(folded, plan.width)
            folded = []
        mark = USE if trial is chosen else NOW if trial.batch_size == current else ""
        lines += trial_row(trial, plan, best=best, mark=mark)
    if folded:
        lines += _folded_rows(folded, plan.width)
    return lines + _further_failures(failures, plan.width)


def sorted_out(recommendation: Recommendation) -> tuple[list[Trial], list[Trial], list[Trial]]:
    """Return (shown, folded, out of memory above the first): the latest trial of each size, by batch size.

    A refinement is a size that passed after the first failure: it narrows the ceiling and says little
    about speed. The ceiling, the fastest, the current and the recommended size are always shown.
    """
    trials, chosen = recommendation.trials, recommendation.chosen
    by_size = latest(recommendation)
    first_failure = next((number for number, trial in enumerate(trials) if not trial.ok), len(trials))
    refined = {trial.batch_size for trial in trials[first_failure:]}
    passed = [trial for trial in by_size if trial.ok]
    fastest = max(passed, key=rate_of)
    kept = {
        chosen.batch_size,
        fastest.batch_size,
        recommendation.ceiling.batch_size,
        recommendation.workload.batch_size,
    }
    folded = [trial for trial in passed if trial.batch_size in refined - kept]
    folded = folded if len(folded) > _REFINEMENTS else []
    largest = passed[-1].batch_size
    above = [
        trial for trial in by_size if trial.outcome is Outcome.OUT_OF_MEMORY and trial.batch_size > largest
    ]
    hidden = {trial.batch_size for trial in (*folded, *above[1:])}
    return [trial for trial in by_size if trial.batch_size not in hidden], folded, above[1:]


def latest(recommendation: Recommendation) -> list[Trial]:
    """Return the latest trial of each size, by batch size; for the recommended size, the trial chosen."""
    chosen = recommendation.chosen
    by_size = {trial.batch_size: trial for trial in recommendation.trials} | {chosen.batch_size: chosen}
    return [by_size[size] for size in sorted(by_size)]


def folded_text(folded: Sequence[Trial]) -> str:
    """Summarize the refinements that are not shown."""
    return f"{len(folded)} more sizes from {folded[0].batch_size} to {folded[-1].batch_size} fit"


def further_text(failures: Sequence[Trial]) -> str:
    """Summarize the sizes out of memory above the smallest of them."""
    largest = failures[-1].batch_size
    where = str(largest) if len(failures) == 1 else f"{len(failures)} larger sizes up to {largest}"
    return f"out of memory at {where} as well"


def _folded_rows(folded: Sequence[Trial], width: int) -> list[Line]:
    return _remark(folded_text(folded), width)


def _further_failures(failures: Sequence[Trial], width: int) -> list[Line]:
    return _remark(further_text(failures), width) if failures else []


def _remark(text: str, width: int) -> list[Line]:
    return hang("…".rjust(_BATCH) + "   ", text, width, style="dim", label_style="dim")


def rate_of(trial: Trial) -> float:
    """Return samples per second for comparisons: 0 if they were not measured."""
    rate = trial.samples_per_second
    return rate if rate is not None and isfinite(rate) else 0.0


def fit(text: str, width: int) -> str:
    """Align `text` to the right of its column; a figure that doesn't fit is left out, never cut."""
    return (text if cells(text) <= width else "…").rjust(width)

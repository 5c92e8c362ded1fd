"""The table of trials: which rows are shown, and each row in columns whose width never changes.

The same row is drawn while a size is measured and in the final report, so progress and answer agree.
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

# Column titles and widths; the batch size comes first, with its indent, and the bar last. Where two
# spaces between all don't fit, columns whose figures leave room by themselves have one.
_BATCH = 7
_WIDTHS = {"steps/epoch": 11, "epoch": 7, "samples/s": 12, "step": 7, "memory": 8, "util": 4}
COLUMNS = tuple(_WIDTHS)
_WIDE = dict.fromkeys(_WIDTHS, 2)
_TIGHT = {**_WIDE, "epoch": 1, "samples/s": 1, "util": 1}
# What a terminal too narrow for the whole table loses, in this order.
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
# More refinement rows than this become one line that says how many there were.
_REFINEMENTS = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that fit, each with the cells from the last one's end to its own; the longest bar."""

    columns: dict[str, int]
    bar: int
    width: int


def layout(workload: Workload, width: int) -> Layout:
    """The widest table that `width` columns hold; without epochs where there is no data set to count."""
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
    """The line of column titles."""
    names = "".join(name.rjust(span) for name, span in plan.columns.items())
    return (("batch".rjust(_BATCH) + names, "dim"),)


def trial_row(trial: Trial, plan: Layout, *, best: float | None = None, mark: str = "") -> list[Line]:
    """One trial: a line of figures with its bar, or up to three lines that say how it failed.

    `best`: the samples per second that a full bar stands for; None draws no bar (not known yet).
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
    """A batch size without separators, as it is there to be copied; one that no column holds in short."""
    text = str(batch_size)
    return text if len(text) <= _BATCH else f"{Decimal(text):.1e}"


def figures(trial: Trial) -> dict[str, str]:
    """The figures of a trial that passed, by the title of their column."""
    return {
        "steps/epoch": format_count(trial.steps_per_epoch),
        "epoch": format_short_duration(trial.epoch_seconds),
        "samples/s": format_rate(trial.samples_per_second, trial.samples_per_second_interval),
        "step": format_short_duration(median(trial.step_seconds)) if trial.step_seconds else MISSING,
        "memory": format_bytes(trial.peak_bytes),
        "util": format_percent(trial.utilisation),
    }


def failure_text(trial: Trial) -> str:
    """How a trial failed, with what is known of it, on one line."""
    what, _ = _FAILURE.get(trial.outcome, _FAILURE[Outcome.FAILED])
    if trial.phase:
        what += f" during {clean(trial.phase)}"
    detail = clean(trial.detail)
    return f"{what}: {detail}" if detail else what


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
    """A bar of `width` cells for `best` and in proportion, to an eighth of a cell, for `value`."""
    if value is None or best is None or not (isfinite(value) and value > 0 and best > 0):
        return ""
    eighths = max(1, round(min(value / best, 1.0) * width * 8)) if width else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def rows(recommendation: Recommendation, plan: Layout) -> list[Line]:
    """Every row of the final table, by batch size, with bars, marks and long refinements folded."""
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
    """(shown, folded, out of memory further up): the last word on each size, by batch size.

    A refinement is a size that passed after the first failure: it narrows the ceiling and says little
    about speed. The ceiling, the best, the present and the chosen size are always shown.
    """
    trials, chosen = recommendation.trials, recommendation.chosen
    by_size = latest(recommendation)
    first_failure = next((number for number, trial in enumerate(trials) if not trial.ok), len(trials))
    refined = {trial.batch_size for trial in trials[first_failure:]}
    passed = [trial for trial in by_size if trial.ok]
    quickest = max(passed, key=rate_of)
    kept = {
        chosen.batch_size,
        quickest.batch_size,
        recommendation.ceiling.batch_size,
        recommendation.workload.batch_size,
    }
    folded = [trial for trial in passed if trial.batch_size in refined - kept]
    folded = folded if len(folded) > _REFINEMENTS else []
    largest = passed[-1].batch_size
    above = [t for t in by_size if t.outcome is Outcome.OUT_OF_MEMORY and t.batch_size > largest]
    hidden = {trial.batch_size for trial in (*folded, *above[1:])}
    return [trial for trial in by_size if trial.batch_size not in hidden], folded, above[1:]


def latest(recommendation: Recommendation) -> list[Trial]:
    """The last word on each size, by batch size; of the recommended one, the trial that it stands on."""
    chosen = recommendation.chosen
    found = {trial.batch_size: trial for trial in recommendation.trials} | {chosen.batch_size: chosen}
    return [found[size] for size in sorted(found)]


def folded_text(folded: Sequence[Trial]) -> str:
    """What stands for the refinements that are not shown."""
    return f"{len(folded)} more sizes from {folded[0].batch_size} to {folded[-1].batch_size} fit"


def further_text(failures: Sequence[Trial]) -> str:
    """What stands for the sizes out of memory above the smallest of them."""
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
    """Samples per second to compare by: 0 where they are not known."""
    rate = trial.samples_per_second
    return rate if rate is not None and isfinite(rate) else 0.0


def fit(text: str, width: int) -> str:
    """`text` to the right of its column; a figure that doesn't fit is left out whole, never cut."""
    return (text if cells(text) <= width else "…").rjust(width)

"""The table of trials: each row in columns of constant width.

The progress and the final report draw the same columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median

from autobatch.records.formatting import (
    MISSING,
    format_bytes,
    format_count,
    format_milliseconds,
    format_percent,
    format_rate,
    format_short_duration,
    format_spread,
)
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome, Trial
from autobatch.records.workload import Workload
from autobatch.reports.relative_times import relative_times
from autobatch.reports.text.lines import Line, cells, clean, hang, shorten, wrap
from autobatch.reports.text.row_choice import around_answer, folded_text, further_text, sorted_out
from autobatch.reports.text.size_marks import (
    HIGHER_LOSS,
    RECOMMENDED,
    VETOED,
    is_answer,
    mark_of,
)

# Column titles and widths. The batch size comes first, with its indent, and the mark last.
_BATCH = 8
_WIDTHS = {
    "samples/s": 11,
    "±": 6,
    "step (ms)": 11,
    "memory": 10,
    "steps/epoch": 13,
    "epoch": 9,
    "util": 6,
}
COLUMNS = tuple(_WIDTHS)
# The columns of the report without `-v`, and those that need the size of the data set.
_USUAL = ("samples/s", "±", "step (ms)", "memory")
_PER_EPOCH = ("steps/epoch", "epoch")
# The columns that a narrow terminal loses, in this order.
_EXPENDABLE = ("steps/epoch", "util", "epoch", "±", "memory", "step (ms)")
RELATIVE_TIME = "relative time"
_GAP, _TIME = 3, 5
_MARK = 2 + len(RECOMMENDED)
_FAILURE = {
    Outcome.OUT_OF_MEMORY: ("out of memory", "yellow"),
    Outcome.CRASHED: ("crashed", "red"),
    Outcome.TIMEOUT: ("timed out", "red"),
    Outcome.FAILED: ("failed", "red"),
}
_FAILURE_LINES = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that fit, each with its cells. `has_times`: relative times are shown before the mark."""

    columns: dict[str, int]
    width: int
    has_times: bool = False


def layout(workload: Workload, width: int, *, verbose: bool = False, has_times: bool = False) -> Layout:
    """Return the widest table that `width` columns hold; no epochs without the size of the data set."""
    width = max(width, 40)
    names = COLUMNS if verbose else _USUAL
    columns = [name for name in names if workload.dataset_size is not None or name not in _PER_EPOCH]
    end = _MARK + (_GAP + _TIME if has_times else 0)
    for expendable in _EXPENDABLE:
        if _BATCH + sum(_WIDTHS[name] for name in columns) + end <= width:
            break
        columns = [name for name in columns if name != expendable]
    return Layout({name: _WIDTHS[name] for name in columns}, width, has_times)


def titles(plan: Layout) -> Line:
    """Lay out the line of column titles."""
    names = "".join(name.rjust(span) for name, span in plan.columns.items())
    time = " " * _GAP + RELATIVE_TIME if plan.has_times else ""
    return (("batch".rjust(_BATCH) + names + time, "dim"),)


def trial_row(
    trial: Trial,
    plan: Layout,
    *,
    relative_time: float | None = None,
    mark: str = "",
    chosen: bool = False,
) -> list[Line]:
    """Lay out one trial: a line of figures, or up to three lines on its failure."""
    size = fit(size_text(trial.batch_size), _BATCH)
    if not trial.ok:
        return _failed_row(size, trial, plan)
    texts = figures(trial)
    shown = "".join(fit(texts[name], span) for name, span in plan.columns.items())
    if plan.has_times:
        shown += " " * _GAP + time_text(relative_time).ljust(_TIME)
    style = "bold green" if chosen else ""
    worse = mark == VETOED or mark.startswith(HIGHER_LOSS)
    return [((size + shown, style), (f"  {mark}" if mark else "", style or ("yellow" if worse else "dim")))]


def size_text(batch_size: int) -> str:
    """Write a batch size; in short if no column holds it."""
    text = f"{batch_size:,}"
    return text if len(text) < _BATCH else f"{Decimal(batch_size):.1e}"


def time_text(relative_time: float | None) -> str:
    """Write a relative time in 5 columns at most."""
    if relative_time is None or not relative_time >= 0:
        return MISSING
    if relative_time < 99.995:
        return f"{relative_time:.2f}"
    return f"{relative_time:.0f}" if relative_time < 9999.5 else ">9999"


def figures(trial: Trial) -> dict[str, str]:
    """Return the figures of a trial that passed, by the title of their column."""
    return {
        "samples/s": format_rate(trial.samples_per_second),
        "±": format_spread(trial.samples_per_second, trial.samples_per_second_interval),
        "step (ms)": format_milliseconds(median(trial.step_seconds)) if trial.step_seconds else MISSING,
        "memory": format_bytes(trial.peak_bytes),
        "steps/epoch": format_count(trial.steps_per_epoch),
        "epoch": format_short_duration(trial.epoch_seconds),
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


def lines_around_answer(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out the sizes around the answer, with their relative times where these are known."""
    return _table(recommendation, around_answer(recommendation), width)


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out every size with every column; many refinements are folded."""
    shown, folded, failures = sorted_out(recommendation)
    laid_out = _table(recommendation, shown, width, folded, verbose=True)
    return laid_out + (_remark(further_text(failures), width) if failures else [])


def _table(
    recommendation: Recommendation,
    shown: Sequence[Trial],
    width: int,
    folded: Sequence[Trial] = (),
    *,
    verbose: bool = False,
) -> list[Line]:
    times = relative_times(recommendation)
    plan = layout(recommendation.workload, width, verbose=verbose, has_times=bool(times))
    laid_out: list[Line] = [titles(plan)]
    for trial in shown:
        if folded and trial.batch_size > folded[0].batch_size:
            laid_out += _remark(folded_text(folded), plan.width)
            folded = ()
        laid_out += _row(trial, plan, recommendation, times)
    return laid_out + (_remark(folded_text(folded), plan.width) if folded else [])


def _row(
    trial: Trial, plan: Layout, recommendation: Recommendation, times: Mapping[int, float]
) -> list[Line]:
    size = trial.batch_size
    return trial_row(
        trial,
        plan,
        relative_time=times.get(size),
        mark=mark_of(size, recommendation),
        chosen=is_answer(size, recommendation),
    )


def _remark(text: str, width: int) -> list[Line]:
    return hang("…".rjust(_BATCH) + "   ", text, width, style="dim", label_style="dim")


def fit(text: str, width: int) -> str:
    """Align `text` to the right of its column; a figure that doesn't fit is left out, never cut."""
    return (text if cells(text) < width else "…").rjust(width)

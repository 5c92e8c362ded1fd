"""The table of the check: the figures of each short training."""

from __future__ import annotations

from autobatch.records.check import Check
from autobatch.records.formatting import MISSING, format_count, format_short_duration
from autobatch.records.recommendation import Candidate, Recommendation
from autobatch.reports.text.lines import Line, clean, hang
from autobatch.reports.text.size_marks import RECOMMENDED, is_answer, mark_of, veto_of
from autobatch.reports.text.table import RELATIVE_TIME, fit, size_text, time_text

_BATCH = 8
_WIDTHS = {"lr": 8, "steps": 8, "loss": 9, "to_loss": 20, "time": 9, "relative_time": 15}
# The columns that a narrow terminal loses, in this order.
_EXPENDABLE = ("time", "steps", "lr", "loss", "to_loss")
_MARK = 2 + len(RECOMMENDED)


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """A title and a row for each size that was trained; none where there was no training."""
    check = recommendation.check
    shown = rows(recommendation)
    if check is None or not shown:
        return []
    columns = _columns(width)
    names = titles(check)
    title = "".join(fit(names[key], span) for key, span in columns.items())
    laid_out: list[Line] = [(("batch".rjust(_BATCH) + title, "dim"),)]
    for row in shown:
        laid_out += _row(row, columns, recommendation, width)
    return laid_out


def rows(recommendation: Recommendation) -> list[Candidate]:
    """Sizes that were trained, and the same with gradients accumulated; none without a training.

    None with a decision either: times to the same loss answer another question than it does.
    """
    candidates = recommendation.candidates
    if recommendation.decision is not None or not any(row.steps is not None for row in candidates):
        return []
    return [row for row in candidates if row.steps is not None or row.accumulation_steps > 1]


def is_chosen(row: Candidate, recommendation: Recommendation) -> bool:
    return row.accumulation_steps == 1 and is_answer(row.batch_size, recommendation)


def titles(check: Check) -> dict[str, str]:
    """Return the title of each column; one of them names the loss that all trainings reached."""
    matched = "" if check.matched_loss is None else f" {check.matched_loss:.3g}"
    return {
        "lr": "lr",
        "steps": "steps",
        "loss": "loss",
        "to_loss": f"steps to loss{matched}",
        "time": "time",
        "relative_time": RELATIVE_TIME,
    }


def figures(row: Candidate) -> dict[str, str]:
    """Return the figures of a trained size, by the name of their column."""
    return {
        "lr": MISSING if row.learning_rate_factor is None else f"×{row.learning_rate_factor:.3g}",
        "steps": format_count(row.steps),
        "loss": MISSING if row.loss is None else f"{row.loss:.3g}",
        "to_loss": MISSING if row.steps_to_loss is None else f"{row.steps_to_loss:,.0f}",
        "time": format_short_duration(row.seconds_to_loss),
        "relative_time": time_text(row.relative_time),
    }


def _columns(width: int) -> dict[str, int]:
    columns = dict(_WIDTHS)
    for name in _EXPENDABLE:
        if _BATCH + sum(columns.values()) + _MARK <= width:
            break
        del columns[name]
    return columns


def _row(row: Candidate, columns: dict[str, int], recommendation: Recommendation, width: int) -> list[Line]:
    veto = veto_of(row.batch_size, recommendation)
    size = fit(size_text(row.batch_size), _BATCH)
    if veto is not None:
        return hang(f"{size}   ", f"vetoed: {clean(veto.reason)}", width, style="yellow")
    if row.accumulation_steps > 1:
        return _accumulated_row(row, columns)
    texts = figures(row)
    shown = "".join(fit(texts[name], span) for name, span in columns.items())
    style = "bold green" if is_chosen(row, recommendation) else ""
    mark = mark_of(row.batch_size, recommendation)
    return [((size + shown, style), (f"  {mark}" if mark else "", style or "dim"))]


def _accumulated_row(row: Candidate, columns: dict[str, int]) -> list[Line]:
    size = fit(f"{row.batch_size}x{row.accumulation_steps}", _BATCH)
    *others, last = columns.values()
    room = sum(others)
    remark = "   by accumulation" if room >= 20 else ""
    return [((size + remark.ljust(room) + fit(time_text(row.relative_time), last), "dim"),)]

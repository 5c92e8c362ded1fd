"""The table of the check: the figures of each short training."""

from __future__ import annotations

from autobatch.records.check import Check, Veto
from autobatch.records.formatting import MISSING, format_count, format_short_duration
from autobatch.records.recommendation import Candidate, Recommendation
from autobatch.reports.text.lines import Line, clean, hang
from autobatch.reports.text.table import USE, fit

_BATCH, _FACTOR, _STEPS, _LOSS, _TO_LOSS, _SECONDS, _EXPECTED = 7, 8, 8, 9, 12, 9, 10
# The columns that a narrow terminal loses, in this order.
_EXPENDABLE = ("time", "steps", "lr", "loss")


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """A title and a row for each size that was trained; none where there was no training."""
    check = recommendation.check
    rows = contestants(recommendation)
    if check is None or not rows:
        return []
    columns = _columns(check, width)
    title = "".join(fit(name, span) for name, span in columns.values())
    vetoed = {veto.batch_size: veto for veto in check.vetoed}
    found: list[Line] = [(("batch".rjust(_BATCH) + title, "dim"),)]
    for row in rows:
        found += _row(row, columns, vetoed.get(row.batch_size), is_chosen(row, recommendation), width)
    return found


def contestants(recommendation: Recommendation) -> list[Candidate]:
    """The rows: sizes that were trained, and the same with gradients accumulated; none without a training."""
    rows = [one for one in recommendation.candidates if one.steps is not None or one.accumulation_steps > 1]
    return rows if any(one.steps is not None for one in rows) else []


def is_chosen(row: Candidate, recommendation: Recommendation) -> bool:
    return row.batch_size == recommendation.batch_size and row.accumulation_steps == 1


def to_loss_title(check: Check) -> str:
    """Return the title of the column with the steps to the loss that all trainings reached."""
    return "to " + (MISSING if check.matched_loss is None else f"{check.matched_loss:.3g}")


def figures(row: Candidate) -> dict[str, str]:
    """Return the figures of a trained size, by the name of their column."""
    return {
        "lr": MISSING if row.learning_rate_factor is None else f"×{row.learning_rate_factor:.3g}",
        "steps": format_count(row.steps),
        "loss": MISSING if row.loss is None else f"{row.loss:.3g}",
        "to_loss": _steps(row.steps_to_loss),
        "time": format_short_duration(row.seconds_to_loss),
        "expected": f"{row.relative_time:.2f}",
    }


def _columns(check: Check, width: int) -> dict[str, tuple[str, int]]:
    columns = {
        "lr": ("lr", _FACTOR),
        "steps": ("steps", _STEPS),
        "loss": ("loss", _LOSS),
        "to_loss": (to_loss_title(check), _TO_LOSS),
        "time": ("time", _SECONDS),
        "expected": ("expected", _EXPECTED),
    }
    for name in _EXPENDABLE:
        if _BATCH + sum(span for _, span in columns.values()) + len(USE) + 1 <= width:
            break
        del columns[name]
    return columns


def _row(
    row: Candidate,
    columns: dict[str, tuple[str, int]],
    veto: Veto | None,
    chosen: bool,
    width: int,
) -> list[Line]:
    if veto is not None:
        return hang(
            fit(str(row.batch_size), _BATCH) + "   ", f"vetoed: {clean(veto.reason)}", width, style="yellow"
        )
    if row.accumulation_steps > 1:
        return _accumulated_row(row, columns)
    texts = figures(row)
    shown = "".join(fit(texts[name], span) for name, (_, span) in columns.items())
    style = "bold green" if chosen else ""
    return [((fit(str(row.batch_size), _BATCH) + shown, style), (f" {USE}" if chosen else "", style))]


def _accumulated_row(row: Candidate, columns: dict[str, tuple[str, int]]) -> list[Line]:
    size = fit(f"{row.batch_size}x{row.accumulation_steps}", _BATCH)
    *others, (_, last) = columns.values()
    room = sum(span for _, span in others)
    what = "   by accumulation" if room >= 20 else ""
    return [((size + what.ljust(room) + fit(f"{row.relative_time:.2f}", last), "dim"),)]


def _steps(count: float | None) -> str:
    return MISSING if count is None else f"{count:,.0f} steps"

"""The table of a decision: each size beside the current one, for a training of the same epochs."""

from __future__ import annotations

from autobatch.records.formatting import MISSING
from autobatch.records.recommendation import Recommendation, SameEpochs
from autobatch.reports.text.lines import Line, clean, hang
from autobatch.reports.text.size_marks import RECOMMENDED, is_answer, mark_of, reference, veto_of
from autobatch.reports.text.table import fit, size_text

# Column titles and widths; the batch size comes first, and the mark last.
_BATCH = 8
_WIDTHS = {"lr": 8, "loss": 9, "speedup": 8, "90% CI": 15, "final loss": 11}
COLUMNS = tuple(_WIDTHS)
# The columns that a narrow terminal loses, in this order.
_EXPENDABLE = ("lr", "loss", "90% CI")
_MARK = 2 + len(RECOMMENDED)
_ROWS = 7


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """A title and the rows around the answer; none without a decision among several sizes."""
    shown = rows(recommendation)
    if not shown:
        return []
    columns = _columns(recommendation, width)
    title = "".join(fit(name, _WIDTHS[name]) for name in columns)
    laid_out: list[Line] = [(("batch".rjust(_BATCH) + title, "dim"),)]
    for row in shown:
        veto = veto_of(row.batch_size, recommendation)
        if veto is not None:
            label = fit(size_text(row.batch_size), _BATCH) + "   "
            laid_out += hang(label, f"vetoed: {clean(veto.reason)}", width, style="yellow")
        else:
            laid_out.append(_row(row, columns, recommendation))
    return laid_out


def rows(recommendation: Recommendation) -> list[SameEpochs]:
    """The answer, the reference and the sizes nearest to the answer: at most seven, ascending."""
    sizes = sorted(recommendation.same_epochs, key=lambda row: row.batch_size)
    if recommendation.decision is None or len(sizes) < 2:
        return []
    answer = recommendation.batch_size
    rank = next((rank for rank, row in enumerate(sizes) if row.batch_size >= answer), len(sizes) - 1)
    kept = (answer, reference(recommendation))
    nearest = sorted(
        range(len(sizes)), key=lambda place: (sizes[place].batch_size not in kept, abs(place - rank))
    )
    return [sizes[place] for place in sorted(nearest[:_ROWS])]


def figures(row: SameEpochs, recommendation: Recommendation) -> dict[str, str]:
    """Return the figures of a size, by the title of their column.

    `loss` is the mean of its last evaluations. `final loss` is relative to the reference.
    """
    size = row.batch_size
    trained = (each for each in recommendation.candidates if each.batch_size == size and each.steps)
    training = next(trained, None)
    loss = None if training is None else training.loss
    factor = None if training is None else training.learning_rate_factor
    if size == recommendation.batch_size:
        factor = recommendation.learning_rate_factor
    low, high = row.interval
    return {
        "lr": MISSING if factor is None else f"×{factor:.3g}",
        "loss": MISSING if loss is None else f"{loss:.3g}",
        "speedup": f"{ratio_text(row.speedup)}x",
        "90% CI": "" if (low, high) == (1.0, 1.0) else f"{ratio_text(low)} to {ratio_text(high)}",
        "final loss": MISSING if row.harm is None else f"{ratio_text(row.harm)}x",
    }


def ratio_text(value: float) -> str:
    """Two decimals below 10, then three figures, so that the widest interval leaves a space."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.3g}"


def filled_columns(recommendation: Recommendation) -> list[str]:
    """The titles of the columns that have a figure in some row."""
    shown = [figures(row, recommendation) for row in rows(recommendation)]
    return [name for name in COLUMNS if any(texts[name] not in ("", MISSING) for texts in shown)]


def _columns(recommendation: Recommendation, width: int) -> list[str]:
    columns = filled_columns(recommendation)
    for name in _EXPENDABLE:
        if _BATCH + sum(_WIDTHS[column] for column in columns) + _MARK <= width:
            break
        columns = [column for column in columns if column != name]
    return columns


def _row(row: SameEpochs, columns: list[str], recommendation: Recommendation) -> Line:
    texts = figures(row, recommendation)
    shown = "".join(fit(texts[name], _WIDTHS[name]) for name in columns)
    mark = mark_of(row.batch_size, recommendation)
    style = "bold green" if is_answer(row.batch_size, recommendation) else "" if row.safe else "yellow"
    size = fit(size_text(row.batch_size), _BATCH)
    return ((size + shown, style), (f"  {mark}" if mark else "", style or "dim"))

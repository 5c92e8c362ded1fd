"""The table of a decision: each size beside the current one, for a training of the same epochs."""

from __future__ import annotations

from autobatch.records.check import Check, Veto
from autobatch.records.formatting import MISSING
from autobatch.records.recommendation import Recommendation, SameEpochs
from autobatch.reports.text.lines import Line, clean, hang
from autobatch.reports.text.table import NOW, USE, fit, size_text

REFERENCE, UNSAFE = "<- reference", "unsafe"
# Column titles and widths; the batch size comes first, and the mark last.
_BATCH = 7
_WIDTHS = {"lr": 8, "loss": 9, "speedup": 8, "90% CI": 14, "final loss": 12}
COLUMNS = tuple(_WIDTHS)
# The columns that a narrow terminal loses, in this order.
_EXPENDABLE = ("lr", "loss", "90% CI")
_MARK = 1 + len(REFERENCE)
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
        veto = veto_of(row, recommendation.check)
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


def reference(recommendation: Recommendation) -> int | None:
    """The size that the others are compared with: alone, its speedup of 1 has no error."""
    exact = (row.batch_size for row in recommendation.same_epochs if row.interval == (1.0, 1.0))
    return next(exact, None)


def veto_of(row: SameEpochs, check: Check | None) -> Veto | None:
    vetoes = () if check is None else check.vetoed
    return next((veto for veto in vetoes if veto.batch_size == row.batch_size), None)


def mark(row: SameEpochs, recommendation: Recommendation) -> str:
    """Mark the recommended, the current and the reference size, and sizes that end at a higher loss."""
    if row.batch_size == recommendation.batch_size:
        return USE
    if row.batch_size == recommendation.workload.batch_size:
        return NOW
    if row.batch_size == reference(recommendation):
        return REFERENCE
    # Without a loss curve no harm is known, and none of the other sizes is called unsafe.
    known = any(each.harm is not None for each in recommendation.same_epochs)
    return UNSAFE if known and not row.safe else ""


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
        "speedup": f"{_ratio(row.speedup)}x",
        "90% CI": "" if (low, high) == (1.0, 1.0) else f"{_ratio(low)} to {_ratio(high)}",
        "final loss": MISSING if row.harm is None else f"{_ratio(row.harm)}x",
    }


def _ratio(value: float) -> str:
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
    marked = mark(row, recommendation)
    style = {USE: "bold green", UNSAFE: "yellow"}.get(marked, "")
    size = fit(size_text(row.batch_size), _BATCH)
    return ((size + shown, style), (f" {marked}" if marked else "", style or "dim"))

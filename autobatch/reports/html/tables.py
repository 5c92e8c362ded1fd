"""The tables of the HTML report: the rows of the text report, in cells."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from autobatch.records.recommendation import Candidate, Recommendation, SameEpochs
from autobatch.records.trial import Outcome, Trial
from autobatch.reports.html.markup import Markup, element, join
from autobatch.reports.relative_times import relative_times
from autobatch.reports.text import row_choice, same_epochs_table, scaling_table, table, training_table
from autobatch.reports.text.lines import clean
from autobatch.reports.text.size_marks import is_answer, mark_of, veto_of

# The columns that a telephone has no room for.
_RARE = ("steps/epoch", "epoch", "util", "±", "lr", "steps", "time", "loss")


def trials(recommendation: Recommendation) -> Markup:
    """Build the table of trials; rows that the text report folds are folded here too."""
    shown, folded, failures = row_choice.sorted_out(recommendation)
    counted = recommendation.workload.dataset_size is not None
    columns = [name for name in table.COLUMNS if counted or "epoch" not in name]
    times = relative_times(recommendation)
    best = max((row_choice.rate_of(trial) for trial in (*shown, *folded) if trial.ok), default=0.0)
    width = len(columns) + bool(times)
    rows: list[Markup] = []
    for trial in shown:
        if folded and trial.batch_size > folded[0].batch_size:
            rows.append(_remark(row_choice.folded_text(folded), width))
            folded = []
        rows.append(_trial(trial, columns, recommendation, best, times))
    rows += [_remark(row_choice.folded_text(folded), width)] if folded else []
    rows += [_remark(row_choice.further_text(failures), width)] if failures else []
    titles = [_title("batch"), *(_title(name) for name in columns)]
    titles += [_title(table.RELATIVE_TIME)] if times else []
    return table_of("Trials", [*titles, _blank("bar"), _blank("mark")], rows, "Measured sizes")


def trainings(recommendation: Recommendation) -> Markup | None:
    """Build the table of the decision, or of short trainings without a decision; None without either."""
    if recommendation.decision is not None:
        return _same_epochs(recommendation)
    return _short_trainings(recommendation)


def _same_epochs(recommendation: Recommendation) -> Markup | None:
    rows = same_epochs_table.rows(recommendation)
    if not rows:
        return None
    names = same_epochs_table.filled_columns(recommendation)
    shown = [_compared(row, names, recommendation) for row in rows]
    titles = [_title("batch"), *(_title(name) for name in names), _blank("mark")]
    return table_of("Same epochs", titles, shown, "Trainings of the same epochs")


def _compared(row: SameEpochs, names: list[str], recommendation: Recommendation) -> Markup:
    figures = same_epochs_table.figures(row, recommendation)
    return _figures_or_veto(row.batch_size, names, figures, recommendation)


def _short_trainings(recommendation: Recommendation) -> Markup | None:
    check = recommendation.check
    rows = training_table.rows(recommendation)
    if check is None or not rows:
        return None
    names = training_table.titles(check)
    shown = [_trained(row, list(names), recommendation) for row in rows]
    titles = [_title("batch"), *(_title(name, rare=key in _RARE) for key, name in names.items())]
    return table_of("Check", [*titles, _blank("mark")], shown, "Short training runs")


def _trained(row: Candidate, names: list[str], recommendation: Recommendation) -> Markup:
    figures = training_table.figures(row)
    if row.accumulation_steps == 1:
        return _figures_or_veto(row.batch_size, names, figures, recommendation)
    size = f"{row.batch_size:,} × {row.accumulation_steps:,}"
    remark = _spanning("by accumulation", len(names) - 1)
    return _row(size, [remark, _cell(figures["relative_time"], rare=False), _blank("mark")], "folded")


def _figures_or_veto(
    batch_size: int, names: list[str], figures: Mapping[str, str], recommendation: Recommendation
) -> Markup:
    """Build the row of a size with its figures, or with the veto against it in their place."""
    size = table.size_text(batch_size)
    veto = veto_of(batch_size, recommendation)
    if veto is not None:
        reason = _spanning(f"vetoed: {clean(veto.reason)}", len(names))
        return _row(size, [reason, _blank("mark")], "vetoed")
    cells = [_cell(figures[name], rare=name in _RARE) for name in names]
    cells.append(element("td", mark_of(batch_size, recommendation) or None, class_="mark"))
    return _row(size, cells, "use" if is_answer(batch_size, recommendation) else None)


def devices(recommendation: Recommendation) -> Markup | None:
    """Build the table of predictions for other numbers of devices; None without any."""
    rows = scaling_table.rows(recommendation)
    if not rows:
        return None
    shown = []
    for row in rows:
        size, *others = scaling_table.figures(row)
        measured = row.devices == recommendation.world_size
        mark = element("td", scaling_table.MEASURED if measured else None, class_="mark")
        cells = [*(_cell(text, rare=False) for text in others), mark]
        shown.append(_row(size, cells, "use" if measured else None))
    titles = [_title(name) for name in scaling_table.TITLES]
    return table_of("Devices", [*titles, _blank("mark")], shown, "Predicted for other numbers of devices")


def _trial(
    trial: Trial,
    columns: list[str],
    recommendation: Recommendation,
    best: float,
    times: Mapping[int, float],
) -> Markup:
    size = table.size_text(trial.batch_size)
    if not trial.ok:
        kind = "memory" if trial.outcome is Outcome.OUT_OF_MEMORY else "failed"
        return _row(size, [_spanning(table.failure_text(trial), len(columns) + bool(times) + 2)], kind)
    figures = table.figures(trial)
    cells = [_cell(figures[name], rare=name in _RARE) for name in columns]
    if times:
        cells.append(_cell(table.time_text(times.get(trial.batch_size)), rare=False))
    cells.append(bar_cell(row_choice.rate_of(trial) / best if best > 0 else 0.0))
    cells.append(element("td", mark_of(trial.batch_size, recommendation) or None, class_="mark"))
    return _row(size, cells, "use" if is_answer(trial.batch_size, recommendation) else None)


def table_of(
    name: str, titles: list[Markup], rows: list[Markup], caption: str, *, class_: str | None = None
) -> Markup:
    """Build a table that scrolls if it is wider than the page."""
    content = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *titles)),
        element("tbody", *rows),
        class_=class_,
    )
    return element("div", content, class_="scroll", role="region", aria_label=name, tabindex=0)


def bar_cell(share: float) -> Markup:
    """Build a cell with a bar over this share of its width."""
    share = min(max(0.0, share), 1.0) if isfinite(share) else 0.0
    return element("td", element("i", style=f"--share: {share:.1%}"), class_="bar")


def _row(size: str, cells: list[Markup], class_: str | None) -> Markup:
    return element("tr", element("th", size, scope="row"), *cells, class_=class_)


def _remark(text: str, columns: int) -> Markup:
    return _row("…", [_spanning(text, columns + 2)], "folded")


def _title(name: str, *, rare: bool | None = None) -> Markup:
    rare = name in _RARE if rare is None else rare
    return element("th", name, scope="col", class_="rare" if rare else None)


def _cell(text: str, *, rare: bool) -> Markup:
    return element("td", text, class_="rare" if rare else None)


def _spanning(text: str, columns: int) -> Markup:
    return element("td", join(text), class_="text", colspan=columns)


def _blank(class_: str) -> Markup:
    return element("td", class_=class_)

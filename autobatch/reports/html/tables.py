"""The tables of the HTML report: the rows of the text report, in cells."""

from __future__ import annotations

from math import isfinite

from autobatch.records.recommendation import Candidate, Recommendation, SameEpochs
from autobatch.records.trial import Outcome, Trial
from autobatch.reports.html.markup import Markup, element, join
from autobatch.reports.text import same_epochs_table, scaling_table, table, training_table
from autobatch.reports.text.lines import clean

# The columns that a telephone has no room for.
_RARE = ("steps/epoch", "epoch", "util", "lr", "steps", "time")
_CONTEST = {
    "lr": "lr",
    "steps": "steps",
    "loss": "loss",
    "to_loss": "",
    "time": "time",
    "expected": "expected",
}


def trials(recommendation: Recommendation) -> Markup:
    """Build the table of trials; rows that the text report folds are folded here too."""
    shown, folded, failures = table.sorted_out(recommendation)
    counted = recommendation.workload.dataset_size is not None
    columns = [name for name in table.COLUMNS if counted or "epoch" not in name]
    best = max((table.rate_of(trial) for trial in (*shown, *folded) if trial.ok), default=0.0)
    rows: list[Markup] = []
    for trial in shown:
        if folded and trial.batch_size > folded[0].batch_size:
            rows.append(_remark(table.folded_text(folded), len(columns)))
            folded = []
        rows.append(_trial(trial, columns, recommendation, best))
    rows += [_remark(table.folded_text(folded), len(columns))] if folded else []
    rows += [_remark(table.further_text(failures), len(columns))] if failures else []
    titles = [_title("batch"), *(_title(name) for name in columns)]
    return _table("Trials", [*titles, _blank("bar"), _blank("mark")], rows, "Sizes that were tried")


def trainings(recommendation: Recommendation) -> Markup | None:
    """Build the table of the decision, or of short trainings without a decision; None without either."""
    if recommendation.decision is not None:
        return _same_epochs(recommendation)
    return _contest(recommendation)


def _same_epochs(recommendation: Recommendation) -> Markup | None:
    rows = same_epochs_table.rows(recommendation)
    if not rows:
        return None
    names = same_epochs_table.filled_columns(recommendation)
    shown = [_compared(row, names, recommendation) for row in rows]
    titles = [_title("batch"), *(_title(name) for name in names), _blank("mark")]
    return _table("Same epochs", titles, shown, "Trainings of the same epochs")


def _compared(row: SameEpochs, names: list[str], recommendation: Recommendation) -> Markup:
    veto = same_epochs_table.veto_of(row, recommendation.check)
    size = str(row.batch_size)
    if veto is not None:
        reason = _spanning(f"vetoed: {clean(veto.reason)}", len(names))
        return _row(size, [reason, _blank("mark")], "vetoed")
    figures = same_epochs_table.figures(row, recommendation)
    cells = [_cell(figures[name], rare=name in _RARE) for name in names]
    mark = same_epochs_table.mark(row, recommendation).removeprefix("<- ")
    cells.append(element("td", mark or None, class_="mark"))
    return _row(size, cells, "use" if row.batch_size == recommendation.batch_size else None)


def _contest(recommendation: Recommendation) -> Markup | None:
    check = recommendation.check
    rows = [] if check is None else training_table.contestants(recommendation)
    if check is None or not rows:
        return None
    names = {**_CONTEST, "to_loss": training_table.to_loss_title(check)}
    vetoed = {veto.batch_size: clean(veto.reason) for veto in check.vetoed}
    shown = []
    for row in rows:
        if row.batch_size in vetoed:
            reason = _spanning(f"vetoed: {vetoed[row.batch_size]}", len(names))
            shown.append(_row(str(row.batch_size), [reason, _blank("mark")], "vetoed"))
        elif row.accumulation_steps > 1:
            shown.append(_accumulated(row, list(names)))
        else:
            shown.append(_contestant(row, list(names), training_table.is_chosen(row, recommendation)))
    titles = [_title("batch"), *(_title(name, rare=key in _RARE) for key, name in names.items())]
    return _table("Check", [*titles, _blank("mark")], shown, "Sizes that were trained for a while")


def devices(recommendation: Recommendation) -> Markup | None:
    """Build the table of predictions for other numbers of devices; None without any."""
    rows = scaling_table.rows(recommendation)
    if not rows:
        return None
    shown = []
    for row in rows:
        size, *others = scaling_table.figures(row)
        mark = "use" if row.devices == recommendation.world_size else None
        cells = [_cell(text, rare=False) for text in others]
        shown.append(_row(size, [*cells, element("td", mark, class_="mark")], mark))
    titles = [_title(name) for name in scaling_table.TITLES]
    return _table("Devices", [*titles, _blank("mark")], shown, "Predicted for other numbers of devices")


def _trial(trial: Trial, columns: list[str], recommendation: Recommendation, best: float) -> Markup:
    size = table.size_text(trial.batch_size)
    if not trial.ok:
        kind = "memory" if trial.outcome is Outcome.OUT_OF_MEMORY else "failed"
        return _row(size, [_spanning(table.failure_text(trial), len(columns) + 2)], kind)
    figures = table.figures(trial)
    cells = [_cell(figures[name], rare=name in _RARE) for name in columns]
    share = table.rate_of(trial) / best if best > 0 else 0.0
    share = min(max(share, 0.0), 1.0) if isfinite(share) else 0.0
    cells.append(element("td", element("i", style=f"--share: {share:.1%}"), class_="bar"))
    chosen = trial is recommendation.chosen
    current = trial.batch_size == recommendation.workload.batch_size
    cells.append(element("td", "use" if chosen else "now" if current else None, class_="mark"))
    return _row(size, cells, "use" if chosen else None)


def _contestant(row: Candidate, names: list[str], chosen: bool) -> Markup:
    figures = training_table.figures(row)
    cells = [_cell(figures[name], rare=name in _RARE) for name in names]
    cells.append(element("td", "use" if chosen else None, class_="mark"))
    return _row(str(row.batch_size), cells, "use" if chosen else None)


def _accumulated(row: Candidate, names: list[str]) -> Markup:
    size = f"{row.batch_size} × {row.accumulation_steps}"
    remark = _spanning("by accumulation", len(names) - 1)
    expected = _cell(training_table.figures(row)["expected"], rare=False)
    return _row(size, [remark, expected, _blank("mark")], "folded")


def _table(name: str, titles: list[Markup], rows: list[Markup], caption: str) -> Markup:
    """Build a table that scrolls if it is wider than the page."""
    content = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *titles)),
        element("tbody", *rows),
    )
    return element("div", content, class_="scroll", role="region", aria_label=name, tabindex=0)


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
    return element("td", join(text), class_="told", colspan=columns)


def _blank(class_: str) -> Markup:
    return element("td", class_=class_)

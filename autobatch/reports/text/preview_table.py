"""A preview for a terminal: what a search would measure, and how long it would take."""

from __future__ import annotations

from collections.abc import Iterator

from autobatch.decision.constants import USUAL_BATCH_SIZE
from autobatch.records.formatting import format_count, format_duration
from autobatch.records.limits import Limits
from autobatch.records.preview import Preview
from autobatch.reports.text import terminal
from autobatch.reports.text.lines import clean, hang, paint

_LABEL_CELLS = 12


def render(preview: Preview, *, width: int = 80, colour: bool = False) -> str:
    """Render the header of a report, and below it the settings of the search."""
    width = max(width, 40)
    header = terminal.header(
        preview.device, preview.workload, version=preview.autobatch, width=width, colour=colour
    )
    lines = []
    for label, text in _facts(preview):
        lines += hang(f"{label:<{_LABEL_CELLS}}", clean(text), width, label_style="dim")
    return f"{header}\n\n{paint(lines, colour=colour)}"


def _facts(preview: Preview) -> Iterator[tuple[str, str]]:
    workload, limits = preview.workload, preview.limits
    if workload.batch_size is None:
        yield "current", f"no batch size is declared: {USUAL_BATCH_SIZE} stands for it"
    else:
        yield "current", f"batch size {format_count(workload.batch_size)}, {preview.batch_size_source}"
    if workload.learning_rate is not None:
        yield "rate", f"learning rate {workload.learning_rate:.3g}, of the optimizer"
    epochs = None if workload.epochs is None else f"{workload.epochs:g}"
    yield "epochs", epochs or "unknown: set `epochs` in the file, or give `--epochs`"
    for count in workload.schedule:
        yield "schedule", f"{clean(count.name)} {format_count(count.steps)}"
    yield "sizes", _sizes(limits)
    yield "objective", str(limits.objective)
    yield "check", "generalization check, within the same time" if limits.check else "none (`--no-check`)"
    yield "start", f"the worker took {format_duration(preview.start_seconds)} to start"
    if preview.cached:
        yield "time", "none: the cache has the answer; `--fresh` measures anew"
    else:
        yield "time", f"at most {format_duration(limits.budget_seconds)} (`--budget`)"
    yield "measured", "nothing"


def _sizes(limits: Limits) -> str:
    text = f"from {format_count(limits.smallest)}"
    text += (
        " to the largest that fits" if limits.max_batch is None else f" to {format_count(limits.max_batch)}"
    )
    text += "" if limits.multiple_of == 1 else f", multiples of {format_count(limits.multiple_of)}"
    return text + (
        ""
        if limits.global_batch is None
        else f"; {format_count(limits.global_batch)} samples per optimizer step"
    )

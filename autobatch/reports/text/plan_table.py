"""A plan for a terminal: the largest sizes on each device, and the parts of their memory."""

from __future__ import annotations

from collections.abc import Sequence

from autobatch._version import __version__
from autobatch.records.formatting import format_bytes, format_count
from autobatch.records.plan import Asked, Fit, Plan
from autobatch.reports.text.lines import Line, cells, clean, hang, join, paint, shorten
from autobatch.reports.text.terminal import workload_facts

_PREDICTED = "predicted: nothing was run on these devices"
_SIZES = ("device", "memory", "batch", "range", "allocated", "reserved")
_PARTS = ("at that size", "parameters", "gradients", "optimizer", "activations", "workspace")
_MAX_NAME_CELLS = 16


def render(plan: Plan, *, width: int = 80, colour: bool = False) -> str:
    """Render the whole report: header, sizes, parts, assumptions and warnings."""
    width = max(width, 40)
    lines = join([f"autobatch {__version__}", _PREDICTED], width, first_style="bold")
    facts = workload_facts(plan.workload) + (["channels last"] if plan.channels_last else [])
    lines += join(facts, width, style="dim", first_style="dim")
    if plan.asked is not None:
        lines += [(), *hang("", _asked(plan.asked), width, style="bold")]
    lines += [(), *_table(_SIZES, [_sizes(fit) for fit in plan.fits], width)]
    lines += [(), *_table(_PARTS, [_parts(fit) for fit in plan.fits], width), ()]
    for fit in plan.fits:
        if fit.batch_size == 0:
            needs = format_bytes(fit.usage.reserved_bytes)
            has = format_bytes(fit.device.room_bytes)
            reason = f"on {clean(fit.device.name)}, batch size 1 takes {needs}, and there are {has}"
            lines += hang("none     ", reason, width)
    for assumption in plan.assumptions:
        lines += hang("assumed  ", clean(assumption), width, label_style="dim", style="dim")
    lines += hang("accuracy ", clean(plan.accuracy), width, label_style="bold")
    for warning in plan.warnings:
        lines += hang("! ", clean(warning), width, label_style="bold yellow")
    return paint(lines, colour=colour)


def _sizes(fit: Fit) -> tuple[str, ...]:
    on_host = fit.device.kind == "cpu"
    return (
        clean(fit.device.name),
        format_bytes(fit.device.total_bytes),
        format_count(fit.batch_size) if fit.batch_size else "none",
        f"{format_count(fit.low)}–{format_count(fit.high)}",
        format_bytes(fit.usage.allocated_bytes),
        # The rules of a heap are not predicted.
        format_bytes(None if on_host else fit.usage.reserved_bytes),
    )


def _parts(fit: Fit) -> tuple[str, ...]:
    parts = fit.usage.parts
    return (
        clean(fit.device.name),
        format_bytes(parts.parameters_bytes),
        format_bytes(parts.gradients_bytes),
        format_bytes(parts.optimizer_bytes),
        format_bytes(parts.activations_bytes),
        format_bytes(parts.workspace_bytes),
    )


def _asked(asked: Asked) -> str:
    taken = format_bytes(asked.usage.reserved_bytes)
    alive = format_bytes(asked.usage.allocated_bytes)
    where = f"{clean(asked.smallest)} is the smallest that takes it" if asked.smallest else "none takes it"
    return (
        f"Batch size {format_count(asked.usage.batch_size)} takes {taken}, {alive} of it allocated: {where}"
    )


def _table(titles: Sequence[str], rows: Sequence[tuple[str, ...]], width: int) -> list[Line]:
    """Lay out a table, its first column to the left; columns that don't fit go to a table below it."""
    names = [shorten(row[0], _MAX_NAME_CELLS) for row in rows]
    first = max(map(cells, (titles[0], *names)))
    lines: list[Line] = []
    columns = list(range(1, len(titles)))
    while columns:
        widths = [max(len(titles[column]), *(cells(row[column]) for row in rows)) for column in columns]
        count = 1
        while count < len(columns) and 2 + first + sum(widths[: count + 1]) + 2 * (count + 1) <= width:
            count += 1
        shown, columns = columns[:count], columns[count:]
        for name, row in zip((titles[0], *names), (titles, *rows), strict=True):
            text = "".join(f"  {row[column]:>{room}}" for column, room in zip(shown, widths, strict=False))
            lines.append(((f"  {name}{' ' * (first - cells(name))}{text}", "dim" if row is titles else ""),))
        lines += [()] if columns else []
    return lines

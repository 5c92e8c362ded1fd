"""A fleet for a terminal: each kind of node with its figures below its name."""

from __future__ import annotations

from autobatch._version import __version__
from autobatch.records.fleet import Fleet, Member
from autobatch.records.formatting import MISSING, format_count, format_rate
from autobatch.records.trial import LimitedBy
from autobatch.reports.text.lines import Line, clean, counted, hang, join, paint
from autobatch.reports.text.terminal import workload_facts

_TITLES = ("nodes", "devices", "ceiling", "batch", "samples/s", "time", "cost")
_WIDTHS = (7, 9, 10, 9, 11, 8, 10)
_AT_LEAST = "≥"


def render(fleet: Fleet, *, width: int = 80, colour: bool = False) -> str:
    """Render the whole report: header, kinds, and the meaning of the figures."""
    width = max(width, 40)
    nodes = sum(member.nodes for member in fleet.members)
    counts = [counted(nodes, "node"), counted(len(fleet.members), "kind")]
    lines = join([f"autobatch {__version__}", *counts], width, first_style="bold")
    answered = [member.answer for member in fleet.members if member.answer is not None]
    if answered:
        lines += join(workload_facts(answered[0].workload), width, style="dim", first_style="dim")
    columns = len(_TITLES) if fleet.currency is not None else len(_TITLES) - 1
    if width >= sum(_WIDTHS):
        lines += [(), ((_row(_TITLES[:columns]), "dim"),)]
    for member in fleet.members:
        fastest = member.relative_time == 1.0
        lines += [(), *hang("  ", clean(member.kind), width, style="bold" if fastest else "")]
        lines += _figures(member, columns, width)
    lines.append(())
    for label, text in _legend(fleet):
        lines += hang(label, text, width, label_style="bold")
    for warning in fleet.warnings:
        lines += hang("! ", clean(warning), width, label_style="bold yellow")
    return paint(lines, colour=colour)


def _figures(member: Member, columns: int, width: int) -> list[Line]:
    if member.answer is None:
        return hang("    failed: ", clean(member.detail), width, label_style="bold red")
    figures = (
        format_count(member.nodes),
        format_count(member.devices),
        f"{_AT_LEAST if _is_open(member) else ''}{format_count(member.answer.ceiling.batch_size)}",
        format_count(member.answer.batch_size),
        format_rate(member.samples_per_second),
        MISSING if member.relative_time is None else f"{member.relative_time:.2f}",
        MISSING if member.cost is None else f"{member.cost:,.2f}",
    )
    if width < sum(_WIDTHS):
        first, *rest = (
            f"{title} {figure}" for title, figure in zip(_TITLES[:columns], figures, strict=False)
        )
        return join([f"  {first}", *rest], width)
    return [((_row(figures[:columns]), ""),)]


def _is_open(member: Member) -> bool:
    """True if sizes above the ceiling may fit, since memory did not end the search."""
    by_memory = (LimitedBy.MEMORY, LimitedBy.SIZE_LIMIT)
    return member.answer is not None and member.answer.ceiling.limited_by not in by_memory


def _row(figures: tuple[str, ...]) -> str:
    return "".join(f"{figure:>{room}}" for figure, room in zip(figures, _WIDTHS, strict=False))


def _legend(fleet: Fleet) -> list[tuple[str, str]]:
    legend = []
    if any(map(_is_open, fleet.members)):
        legend.append(
            (
                f"{_AT_LEAST}      ",
                "larger sizes were not tried there: throughput stops improving, or the budget ended",
            )
        )
    if fleet.critical_batch_size is None:
        return [*legend, ("time   ", "unknown: no check has measured a critical batch size")]
    legend.append(
        (
            "time   ",
            "expected, to the same loss on one device at its batch size, over that of the fastest kind; "
            f"for a critical batch size of {fleet.critical_batch_size:,.0f}, from all checks together",
        )
    )
    if fleet.currency is not None:
        legend.append(
            (
                "cost   ",
                f"in {clean(fleet.currency)}, for the training that the fastest kind does in an hour; "
                "a device costs its share of its node",
            )
        )
    return legend

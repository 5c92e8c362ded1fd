"""The content of the cache, as a table with a line per answer, or as a JSON object."""

from __future__ import annotations

from autobatch.records.cached import CacheEntry, CacheListing
from autobatch.records.formatting import format_bytes, format_moment
from autobatch.reports.text.lines import Line, cells, clean, counted, hang, paint, shorten
from autobatch.storage import json_records

_TITLES = ("batch", "measured (UTC)", "size", "device", "model", "target")
_TO_THE_RIGHT = ("batch", "size")
_MAX_COLUMN_CELLS = 16


def render(listing: CacheListing, *, width: int = 80, colour: bool = False) -> str:
    """Render the table, the newest answer first; below it the folder and the damaged entries."""
    rows = [_TITLES, *map(_row, listing.entries)]
    widths = [
        min(_MAX_COLUMN_CELLS, max(cells(row[number]) for row in rows)) for number in range(len(_TITLES))
    ]
    widths[-1] = max(len("target"), width - sum(widths[:-1]) - 2 * len(widths))
    lines: list[Line] = []
    if listing.entries:
        lines += [((_line(row, widths), "bold" if row is _TITLES else ""),) for row in rows]
        lines += [()]
    total = format_bytes(sum(entry.size_bytes for entry in listing.entries))
    summary = f"{counted(len(listing.entries), 'answer')}, {total}, in {clean(listing.folder)}"
    lines += hang("", summary, width, chop=False)
    for fact in listing.damaged:
        lines += hang("warn   ", clean(fact), width, label_style="bold yellow", chop=False)
    return paint(lines, colour=colour)


def render_json(listing: CacheListing) -> str:
    """Render `folder`, `entries` (each with `path`, `size_bytes` and the table's columns), and `damaged`."""
    entries = [
        {"path": entry.path, "size_bytes": entry.size_bytes, **_columns(entry)} for entry in listing.entries
    ]
    document = {"ok": True, "folder": listing.folder, "entries": entries, "damaged": listing.damaged}
    return json_records.encode(document)


def render_cleared(count: int) -> str:
    """Say how many answers were removed."""
    return f"{counted(count, 'answer')} removed"


def _columns(entry: CacheEntry) -> dict[str, object]:
    answer = entry.answer
    return {
        "batch_size": answer.batch_size,
        "measured_at": answer.environment.started_at if answer.environment else None,
        "device": answer.device.label,
        "device_name": answer.device.name,
        "model": answer.workload.model,
        "target": answer.workload.target,
    }


def _row(entry: CacheEntry) -> tuple[str, ...]:
    columns = _columns(entry)
    measured = format_moment(str(columns["measured_at"] or "-")).removesuffix(" UTC")
    named = (str(columns[name]) for name in ("device", "model", "target"))
    return tuple(map(clean, (str(columns["batch_size"]), measured, format_bytes(entry.size_bytes), *named)))


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    parts = []
    for title, text, room in zip(_TITLES, row, widths, strict=True):
        shown = shorten(text, room)
        blank = " " * (room - cells(shown))
        parts.append(blank + shown if title in _TO_THE_RIGHT else shown + blank)
    return "  " + "  ".join(parts)

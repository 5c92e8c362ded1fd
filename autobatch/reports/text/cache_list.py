"""What lies in the cache, as a table of one line an answer, or as a JSON object."""

from __future__ import annotations

import msgspec

from autobatch.records.cached import CacheEntry, CacheListing
from autobatch.records.escaping import escaped_json
from autobatch.records.formatting import format_bytes, format_moment
from autobatch.reports.text.lines import Line, cells, clean, counted, hang, paint, shorten

_TITLES = ("batch", "measured (UTC)", "size", "device", "model", "target")
_TO_THE_RIGHT = ("batch", "size")
_LONGEST = 16


def render(listing: CacheListing, *, width: int = 80, colour: bool = False) -> str:
    """The table, the newest answer first, with the folder and what is damaged below it."""
    rows = [_TITLES, *map(_row, listing.entries)]
    widths = [min(_LONGEST, max(cells(row[number]) for row in rows)) for number in range(len(_TITLES))]
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
    """`folder`, `entries` (each with `path`, `size_bytes` and what the table shows), and `damaged`."""
    entries = [{"path": one.path, "size_bytes": one.size_bytes, **_told(one)} for one in listing.entries]
    told = {"ok": True, "folder": listing.folder, "entries": entries, "damaged": listing.damaged}
    return escaped_json(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


def render_cleared(count: int) -> str:
    """How many were removed."""
    return f"{counted(count, 'answer')} removed"


def _told(entry: CacheEntry) -> dict[str, object]:
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
    told = _told(entry)
    measured = format_moment(str(told["measured_at"] or "-")).removesuffix(" UTC")
    named = (str(told[name]) for name in ("device", "model", "target"))
    return tuple(map(clean, (str(told["batch_size"]), measured, format_bytes(entry.size_bytes), *named)))


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    parts = []
    for title, text, room in zip(_TITLES, row, widths, strict=True):
        shown = shorten(text, room)
        blank = " " * (room - cells(shown))
        parts.append(blank + shown if title in _TO_THE_RIGHT else shown + blank)
    return "  " + "  ".join(parts)

"""The cost of communication between ranks, and the predicted time on other numbers of devices."""

from __future__ import annotations

from autobatch.records.formatting import format_count, format_percent, format_short_duration
from autobatch.records.recommendation import Recommendation
from autobatch.records.scaling import DeviceCount, Scaling
from autobatch.records.trial import Communication, SizesPerRank
from autobatch.reports.text.lines import Line, clean, shorten
from autobatch.reports.text.table import RELATIVE_TIME, fit, time_text

TITLES = ("devices", "batch", "global", RELATIVE_TIME)
_WIDTHS = (9, 9, 11, 16)
MEASURED = "measured"
# The columns that a narrow terminal loses, in this order.
_EXPENDABLE = ("batch", "global")
# The statement below the table covers further rows.
_MOST_ROWS = 10
_SIZES_CELLS = 60


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out a title and a row for each number of devices; nothing where nothing is predicted."""
    shown = rows(recommendation)
    if not shown:
        return []
    spans = dict(zip(TITLES, _WIDTHS, strict=True))
    for name in _EXPENDABLE:
        if sum(spans.values()) + len(MEASURED) + 2 > width:
            del spans[name]
    lines: list[Line] = [(("".join(fit(name, span) for name, span in spans.items()), "dim"),)]
    for row in shown:
        measured = row.devices == recommendation.world_size
        style = "bold green" if measured else ""
        texts = dict(zip(TITLES, figures(row), strict=True))
        cells = "".join(fit(texts[name], span) for name, span in spans.items())
        lines.append(((cells, style), (f"  {MEASURED}" if measured else "", style)))
    return lines


def rows(recommendation: Recommendation) -> tuple[DeviceCount, ...]:
    """Return the numbers of devices to show."""
    return () if recommendation.scaling is None else recommendation.scaling.counts[:_MOST_ROWS]


def figures(row: DeviceCount) -> tuple[str, ...]:
    """Return the figures of a row, in the order of TITLES."""
    return (
        format_count(row.devices),
        format_count(row.batch_size),
        format_count(row.global_batch_size),
        time_text(row.relative_time),
    )


def communication_text(measured: Communication, ranks: int) -> str:
    """Say what the communication between ranks adds to a step."""
    together = format_short_duration(measured.step_seconds)
    alone = format_short_duration(measured.alone_seconds)
    share = format_percent(measured.seconds / measured.step_seconds if measured.step_seconds else 0.0)
    return (
        f"a step at {measured.batch_size:,} takes {together} with {ranks:,} ranks and {alone} without their "
        f"communication, which is {share} of it"
    )


def scaling_text(scaling: Scaling) -> str:
    """Say how many devices are predicted to be useful."""
    if scaling.useful_devices is None:
        most = scaling.counts[-1].devices
        return f"predicted: each further device shortens the training, up to {most:,} at least"
    return (
        f"predicted: up to {scaling.useful_devices:,} devices shorten the training, if each adds as much "
        "communication as those measured"
    )


def sizes_text(measured: SizesPerRank) -> str:
    """Compare sizes per rank with the common size, and say how to weight the losses."""
    sizes = shorten(", ".join(map(str, measured.batch_sizes)), _SIZES_CELLS)
    if measured.step_seconds is None or measured.common_step_seconds is None:
        tried = f"the sizes {sizes} by rank failed" if sizes else "no sizes by rank"
        return f"{tried}: {clean(measured.detail)}"
    step = format_short_duration(measured.step_seconds)
    common = format_short_duration(measured.common_step_seconds)
    total = sum(measured.batch_sizes)
    size = measured.common_batch_size
    text = f"with the sizes {sizes} by rank a step takes {step}, with {size:,} on each {common}"
    if measured.step_seconds >= measured.common_step_seconds:
        return f"{text}: nothing is gained"
    ranks = len(measured.batch_sizes)
    return f"{text}; multiply each rank's mean loss by its size x {ranks} / {total}"

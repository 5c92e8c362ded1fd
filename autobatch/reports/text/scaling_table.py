"""What several ranks pay for training together, and what more devices or fewer would do: predicted."""

from __future__ import annotations

from autobatch.records.formatting import format_count, format_percent, format_short_duration
from autobatch.records.recommendation import DeviceCount, Recommendation, Scaling
from autobatch.records.trial import Communication, SizesPerRank
from autobatch.reports.text.lines import Line, clean, shorten
from autobatch.reports.text.table import USE, fit

TITLES = ("devices", "batch", "global", "expected")
_WIDTHS = (9, 9, 11, 10)
# A narrow terminal loses this column.
_EXPENDABLE = "batch"
# Further rows say less than the line below the table.
_MOST_ROWS = 10
_SIZES_CELLS = 60


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """Lay out a title and a row for each number of devices; nothing where nothing is predicted."""
    shown = rows(recommendation)
    if not shown:
        return []
    spans = dict(zip(TITLES, _WIDTHS, strict=True))
    if sum(_WIDTHS) + len(USE) + 1 > width:
        del spans[_EXPENDABLE]
    lines: list[Line] = [(("".join(fit(name, span) for name, span in spans.items()), "dim"),)]
    for row in shown:
        measured = row.devices == recommendation.world_size
        style = "bold green" if measured else ""
        texts = dict(zip(TITLES, figures(row), strict=True))
        cells = "".join(fit(texts[name], span) for name, span in spans.items())
        lines.append(((cells, style), (f" {USE}" if measured else "", style)))
    return lines


def rows(recommendation: Recommendation) -> tuple[DeviceCount, ...]:
    """The numbers of devices to show."""
    return () if recommendation.scaling is None else recommendation.scaling.counts[:_MOST_ROWS]


def figures(row: DeviceCount) -> tuple[str, ...]:
    """The figures of a row, in the order of TITLES."""
    return (
        format_count(row.devices),
        format_count(row.batch_size),
        format_count(row.global_batch_size),
        f"{row.relative_time:.2f}",
    )


def communication_text(found: Communication, ranks: int) -> str:
    """What a step costs more because ranks train together."""
    together, alone = format_short_duration(found.step_seconds), format_short_duration(found.alone_seconds)
    share = format_percent(found.seconds / found.step_seconds if found.step_seconds else 0.0)
    return (
        f"a step at {found.batch_size} takes {together} with {ranks:,} ranks and {alone} without their "
        f"communication, which is {share} of it"
    )


def scaling_text(found: Scaling) -> str:
    """How many devices are useful, as predicted."""
    if found.useful_devices is None:
        most = found.counts[-1].devices
        return f"predicted: each further device shortens the training, up to {most:,} at least"
    return (
        f"predicted: up to {found.useful_devices:,} devices shorten the training, if each adds as much "
        "communication as those measured"
    )


def sizes_text(found: SizesPerRank) -> str:
    """Sizes of each rank beside the common one, and how their losses have to be weighted."""
    sizes = shorten(", ".join(map(str, found.batch_sizes)), _SIZES_CELLS)
    if found.step_seconds is None or found.common_step_seconds is None:
        tried = f"the sizes {sizes} by rank failed" if sizes else "no sizes by rank"
        return f"{tried}: {clean(found.detail)}"
    own = format_short_duration(found.step_seconds)
    alike = format_short_duration(found.common_step_seconds)
    total = sum(found.batch_sizes)
    text = (
        f"with the sizes {sizes} by rank a step takes {own}, with {found.common_batch_size} on each {alike}"
    )
    if found.step_seconds >= found.common_step_seconds:
        return f"{text}: nothing is gained"
    ranks = len(found.batch_sizes)
    return f"{text}; multiply each rank's mean loss by its size x {ranks} / {total}"

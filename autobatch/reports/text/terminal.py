"""The report for a terminal: the answer, its table and its warnings, errors and devices, in a given width.

Every function returns text without a newline at its end. Colours add no information.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobatch._version import __version__
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError
from autobatch.records.escaping import printable
from autobatch.records.formatting import format_bytes, format_percent
from autobatch.records.limits import Precision
from autobatch.records.recommendation import Recommendation
from autobatch.records.workload import Workload
from autobatch.reports.text import answer, details, same_epochs_table, scaling_table, table, training_table
from autobatch.reports.text.commands import next_commands
from autobatch.reports.text.lines import (
    Line,
    cells,
    clean,
    counted,
    hang,
    join,
    paint,
    shorten,
    wrap,
)
from autobatch.reports.text.measurements import took_text
from autobatch.reports.text.notices import notices

_NAME_CELLS = 44
Section = Callable[[Recommendation, int], list[Line]]
# The report, in order, with an empty line between two sections; the second form is that of `-v`.
_SECTIONS: tuple[Section, ...] = (
    answer.lines,
    table.lines_around_answer,
    answer.alternative_lines,
)
_DETAILED_SECTIONS: tuple[Section, ...] = (
    answer.lines,
    table.lines,
    same_epochs_table.lines,
    training_table.lines,
    scaling_table.lines,
    answer.alternative_lines,
    details.lines,
)


def render(
    recommendation: Recommendation,
    *,
    width: int = 80,
    colour: bool = False,
    verbose: bool = False,
    next_steps: Sequence[str] | None = None,
) -> str:
    """Render the whole report: header, answer, table, warnings; `verbose` adds every measurement.

    `next_steps`: commands to suggest; None takes those of `next_commands`.
    """
    width = max(width, 40)
    version = recommendation.environment.autobatch if recommendation.environment else __version__
    lines = _header(recommendation.device, recommendation.workload, recommendation.world_size, version, width)
    for section in _DETAILED_SECTIONS if verbose else _SECTIONS:
        shown = section(recommendation, width)
        lines += [(), *shown] if shown else []
    steps = next_commands(recommendation) if next_steps is None else next_steps
    lines += [(), *_warnings(recommendation, width, verbose=verbose)]
    lines += [*_next(steps, width), *_footer(recommendation, width, verbose=verbose)]
    return paint(lines, colour=colour)


def header(
    device: Device,
    workload: Workload,
    *,
    ranks: int = 1,
    version: str = __version__,
    width: int = 80,
    colour: bool = False,
) -> str:
    """Render version, device and memory, and below them model, data set, loss and optimizer."""
    return paint(_header(device, workload, ranks, version, max(width, 40)), colour=colour)


def render_error(error: AutobatchError, *, width: int = 80, colour: bool = False) -> str:
    """Render the message, its facts below it, and after a blank line the hint."""
    lines = hang("error: ", clean(error.message), width, style="bold", label_style="bold red", chop=False)
    for fact in error.facts:
        for part in fact.splitlines() or [""]:
            # Indents within a fact are kept, for tracebacks and code.
            indent = " " * (7 + min(len(part) - len(part.lstrip(" ")), width // 4))
            lines += hang(indent, printable(part.strip()), width, chop=False)
    if error.hint:
        lines += [(), *hang("hint: ", clean(error.hint), width, label_style="bold cyan", chop=False)]
    return paint(lines, colour=colour)


def render_devices(devices: Sequence[Device], *, width: int = 80, colour: bool = False) -> str:
    """Render each device with its memory, its limit, and the processes that hold memory."""
    if not devices:
        return "no device was found"
    indent = max(cells(shorten(_label(device), _NAME_CELLS)) for device in devices) + 2
    lines: list[Line] = []
    for device in devices:
        label = shorten(_label(device), _NAME_CELLS)
        label += " " * (indent - cells(label))
        lines += hang(
            label, shorten(clean(device.name), width - indent), width, style="bold", label_style="cyan"
        )
        for fact in _device_facts(device):
            lines += hang(" " * indent, fact, width)
    return paint(lines, colour=colour)


def _header(device: Device, workload: Workload, ranks: int, version: str, width: int) -> list[Line]:
    parts = [f"autobatch {clean(version)}", f"{shorten(clean(device.name), _NAME_CELLS)} ({_label(device)})"]
    if device.threads is not None:
        parts.append(counted(device.threads, "thread"))
    parts += [counted(ranks, "rank")] if ranks > 1 else []
    parts += [memory_text(device)] if memory_text(device) else []
    if device.limit_bytes is not None:
        source = f" ({clean(device.limit_source)})" if device.limit_source else ""
        parts.append(f"limit {format_bytes(device.limit_bytes)}{source}")
    lines = join(parts, width, first_style="bold")
    lines += join(workload_facts(workload), width, style="dim", first_style="dim")
    if workload.inferred:
        guesses = "; ".join(clean(guess) for guess in workload.inferred)
        lines += hang("inferred: ", guesses, width, style="dim", label_style="dim")
    return lines


def workload_facts(workload: Workload) -> list[str]:
    """Describe model, data set, loss, optimizer, precision and current batch size in a few words each."""
    parameters = counted(workload.parameters, "parameter")
    facts = [f"{shorten(clean(workload.model), _NAME_CELLS)}, {parameters}"]
    samples = "" if workload.dataset_size is None else counted(workload.dataset_size, "sample")
    if workload.synthetic:
        facts.append("random inputs")
    elif workload.dataset:
        name = shorten(clean(workload.dataset), _NAME_CELLS)
        facts.append(f"{name}, {samples}" if samples else name)
    elif samples:
        facts.append(samples)
    optimizer = shorten(clean(workload.optimizer), _NAME_CELLS)
    if optimizer and workload.learning_rate is not None:
        optimizer += f" lr {workload.learning_rate:.3g}"
    facts += [name for name in (shorten(clean(workload.loss), _NAME_CELLS), optimizer) if name]
    if workload.precision not in (None, Precision.FP32):
        facts.append(f"{workload.precision} autocast")
    if workload.batch_size is not None:
        facts.append(f"current batch size {workload.batch_size:,}")
    return facts


def _warnings(recommendation: Recommendation, width: int, *, verbose: bool) -> list[Line]:
    """Lay out the most useful warnings, and with `verbose` the others too."""
    shown, further = notices(recommendation)
    lines: list[Line] = []
    for text in [*shown, *(further if verbose else [])]:
        lines += hang("! ", text, width, label_style="bold yellow")
    return lines


def _next(commands: Sequence[str], width: int) -> list[Line]:
    lines: list[Line] = []
    for command in commands:
        # A backslash at each break keeps it one command when it is copied.
        *parts, last = wrap(printable(command), width - 4)
        whole = [*(f"{part} \\" for part in parts), last]
        labels = ["→ ", *["  "] * len(parts)]
        lines += [((label, "bold"), (part, "cyan")) for label, part in zip(labels, whole, strict=True)]
    return lines


def _footer(recommendation: Recommendation, width: int, *, verbose: bool) -> list[Line]:
    """Say how long it took, and where there is more to see."""
    parts = [took_text(recommendation.environment, cached=recommendation.cached)]
    if not verbose:
        _, further = notices(recommendation)
        more = f" and {counted(len(further), 'more warning')}" if further else ""
        parts += [f"all measurements{more}: -v", "report: --html FILE"]
    parts = [part for part in parts if part]
    return join(parts, width, style="dim", first_style="dim") if parts else []


def _device_facts(device: Device) -> list[str]:
    limit = "no limit set" if device.limit_bytes is None else f"limit {format_bytes(device.limit_bytes)}"
    source = f": {clean(device.limit_source)}" if device.limit_source else ""
    facts = [memory_text(device) or "memory unknown"]
    if device.threads is not None:
        facts.insert(0, counted(device.threads, "thread"))
    if device.utilisation is not None:
        facts.append(f"{format_percent(device.utilisation)} busy")
    if device.driver:
        facts.append(f"driver {clean(device.driver)}")
    lines = [" · ".join(facts), limit + source]
    for user in device.memory_users:
        amount = "an unknown amount" if user.memory_bytes is None else format_bytes(user.memory_bytes)
        lines.append(f"{amount} is held by pid {user.pid} (`{shorten(clean(user.name), _NAME_CELLS)}`)")
    return lines + [clean(note) for note in device.notes]


def memory_text(device: Device) -> str:
    """Return `78.4 GiB free of 79.1 GiB`; empty if the device reports no memory."""
    total, free = device.total_bytes, device.free_bytes
    if free is None:
        return "" if total is None else f"{format_bytes(total)} in all"
    return f"{format_bytes(free)} free" + ("" if total is None else f" of {format_bytes(total)}")


def _label(device: Device) -> str:
    return clean(device.label)

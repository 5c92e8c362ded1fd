"""The report for a terminal: header, table, answer, errors and devices as text of a given width.

Every function returns text without a newline at its end. Without colour it says the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from autobatch._version import __version__
from autobatch.errors import AutobatchError
from autobatch.formatting import (
    format_bytes,
    format_count,
    format_percent,
    format_short_duration,
    printable,
)
from autobatch.records import (
    AnswerLimit,
    Ceiling,
    Check,
    CheckStatus,
    Comparison,
    Device,
    LimitedBy,
    Recommendation,
    StepTime,
    Trial,
    Workload,
)
from autobatch.reports import contest_table, table
from autobatch.reports.commands import next_commands
from autobatch.reports.lines import Line, cells, clean, hang, join, paint, shorten, wrap

SYNTHETIC = "memory and speed only: inputs are random"
UNCHECKED = "quality check: not run; the choice comes from throughput alone"

_NAME_CELLS = 44
# A bound this close to 1 says nothing.
_WORTH_TELLING = 1.02


def render(
    recommendation: Recommendation,
    *,
    width: int = 80,
    colour: bool = False,
    next_steps: Sequence[str] | None = None,
) -> str:
    """The whole report: header, table, answer.

    `next_steps`: commands to suggest; None takes those of `next_commands`.
    """
    width = max(width, 40)
    version = recommendation.environment.autobatch if recommendation.environment else __version__
    plan = table.layout(recommendation.workload, width)
    lines = [
        *_header(recommendation.device, recommendation.workload, version, width),
        (),
        table.titles(plan),
        *table.rows(recommendation, plan),
        (),
        *_contest(recommendation, width),
        *_answer(recommendation, width),
        *_next(next_commands(recommendation) if next_steps is None else next_steps, width),
    ]
    return paint(lines, colour=colour)


def header(
    device: Device, workload: Workload, *, version: str = __version__, width: int = 80, colour: bool = False
) -> str:
    """What measures and what is measured: version, device, memory; model, data set, loss, optimizer."""
    return paint(_header(device, workload, version, max(width, 40)), colour=colour)


def column_titles(workload: Workload, *, width: int = 80, colour: bool = False) -> str:
    """The titles above the rows of this workload."""
    return paint([table.titles(table.layout(workload, width))], colour=colour)


def row(
    trial: Trial,
    workload: Workload,
    *,
    best: float | None = None,
    chosen: bool = False,
    width: int = 80,
    colour: bool = False,
) -> str:
    """One trial as the final table shows it; a failed one may take up to three lines.

    `best`: the samples per second of a full bar; None draws no bar, for rows printed as they come.
    """
    mark = table.USE if chosen else ""
    return paint(table.trial_row(trial, table.layout(workload, width), best=best, mark=mark), colour=colour)


def render_error(error: AutobatchError, *, width: int = 80, colour: bool = False) -> str:
    """The message, its facts below it, and after a blank line the hint."""
    lines = hang("error: ", clean(error.message), width, style="bold", label_style="bold red", chop=False)
    for fact in error.facts:
        for part in fact.splitlines() or [""]:
            # Indents within a fact are kept: a traceback or a piece of code is read by them.
            indent = " " * (7 + min(len(part) - len(part.lstrip(" ")), width // 4))
            lines += hang(indent, printable(part.strip()), width, chop=False)
    if error.hint:
        lines += [(), *hang("hint: ", clean(error.hint), width, label_style="bold cyan", chop=False)]
    return paint(lines, colour=colour)


def render_devices(devices: Sequence[Device], *, width: int = 80, colour: bool = False) -> str:
    """Each device with its memory, what limits it and who holds some of it."""
    if not devices:
        return "no device was found"
    indent = max(cells(_label(device)) for device in devices) + 2
    lines: list[Line] = []
    for device in devices:
        label = _label(device).ljust(indent)
        lines += hang(
            label, shorten(clean(device.name), width - indent), width, style="bold", label_style="cyan"
        )
        for fact in _device_facts(device):
            lines += hang(" " * indent, fact, width)
    return paint(lines, colour=colour)


def _header(device: Device, workload: Workload, version: str, width: int) -> list[Line]:
    parts = [f"autobatch {clean(version)}", f"{shorten(clean(device.name), _NAME_CELLS)} ({_label(device)})"]
    if device.threads is not None:
        parts.append(_counted(device.threads, "thread"))
    parts += [_memory(device)] if _memory(device) else []
    if device.limit_bytes is not None:
        source = f" ({clean(device.limit_source)})" if device.limit_source else ""
        parts.append(f"limit {format_bytes(device.limit_bytes)}{source}")
    lines = join(parts, width, first_style="bold")
    lines += join(_workload_facts(workload), width, style="dim", first_style="dim")
    for guess in workload.inferred:
        lines += hang("inferred: ", clean(guess), width, style="dim", label_style="dim")
    return lines


def _workload_facts(workload: Workload) -> list[str]:
    parameters = _counted(workload.parameters, "parameter")
    facts = [f"{shorten(clean(workload.model), _NAME_CELLS)}, {parameters}"]
    samples = "" if workload.dataset_size is None else _counted(workload.dataset_size, "sample")
    if workload.synthetic:
        facts.append("random inputs")
    elif workload.dataset:
        name = shorten(clean(workload.dataset), _NAME_CELLS)
        facts.append(f"{name}, {samples}" if samples else name)
    elif samples:
        facts.append(samples)
    return facts + [shorten(clean(name), _NAME_CELLS) for name in (workload.loss, workload.optimizer) if name]


def _contest(recommendation: Recommendation, width: int) -> list[Line]:
    found = contest_table.lines(recommendation, width)
    return [*found, ()] if found else []


def _answer(recommendation: Recommendation, width: int) -> list[Line]:
    check = recommendation.check
    verdict = UNCHECKED if check is None else _check_text(check)
    lines = _said("fits", _ceiling_text(recommendation.ceiling, recommendation.workload), width)
    if recommendation.workload.synthetic:
        lines += _said("data", SYNTHETIC, width, label_style="bold yellow")
    if recommendation.step_time is not None:
        lines += _said("speed", _speed_text(recommendation.step_time), width)
    lines += _said("check", verdict, width)
    lines += _said("use", _use_text(recommendation), width, style="bold green", label_style="bold green")
    lines += _said("why", clean(_why_text(recommendation)), width)
    if recommendation.present is not None:
        lines += _said("gain", _gain_text(recommendation.present), width)
    if recommendation.schedule:
        lines += _said("steps", _schedule_text(recommendation), width)
    for warning in recommendation.warnings:
        lines += _said("warn", clean(warning), width, label_style="bold yellow")
    return lines


def _next(commands: Sequence[str], width: int) -> list[Line]:
    lines: list[Line] = []
    for command in commands:
        # Backslashes where it is broken, so that what is copied is still one command.
        *parts, last = wrap(printable(command), width - 9)
        whole = [*(f"{part} \\" for part in parts), last]
        labels = ["next   ", *[" " * 7] * len(parts)]
        lines += [((label, "bold"), (part, "cyan")) for label, part in zip(labels, whole, strict=True)]
    return lines


def _said(label: str, text: str, width: int, *, style: str = "", label_style: str = "bold") -> list[Line]:
    return hang(label.ljust(7), text, width, style=style, label_style=label_style)


def _check_text(check: Check) -> str:
    if check.critical_batch_size is None or check.interval is None:
        return f"quality check: not run: {clean(check.detail)}; the choice comes from throughput alone"
    low, high = check.interval
    upper = "open" if high is None else f"{high:,.0f}"
    found = f"critical batch size {check.critical_batch_size:,.0f} (90%: {low:,.0f} to {upper})"
    return f"{found}, {clean(_evidence(check))}"


def _evidence(check: Check) -> str:
    """What the critical batch size was found from."""
    noise = "from the gradient's noise"
    if check.status is CheckStatus.NOISE_ONLY or not check.trainings:
        return f"{noise} alone" + (f": {check.detail}" if check.detail else "")
    longest = format_short_duration(max(one.seconds for one in check.trainings))
    found = f"{noise} and {len(check.trainings)} trainings of {longest}, judged on {check.held_out}"
    if check.vetoed:
        sizes = ", ".join(f"{veto.batch_size:,}" for veto in check.vetoed)
        found += f"; vetoed: {sizes}"
    return found


def _why_text(recommendation: Recommendation) -> str:
    limits = {
        AnswerLimit.MEMORY: "larger sizes don't fit",
        AnswerLimit.THROUGHPUT: "larger sizes hardly raise the throughput",
        AnswerLimit.GENERALIZATION: "larger sizes need more samples than their throughput makes up for",
        AnswerLimit.VETO: "the next larger size trained worse",
        AnswerLimit.DATASET: "the data set is no larger",
        AnswerLimit.OPTIONS: "larger sizes were not measured",
    }
    by = recommendation.limited_by
    text = recommendation.why + (f"; {limits[by]}" if by is not None else "")
    bound = recommendation.regret_bound
    if bound is not None and bound >= _WORTH_TELLING:
        text += f"; at worst {bound:.2f} times as long as at the best size, by the interval"
    return text


def _speed_text(law: StepTime) -> str:
    fixed, each = format_short_duration(law.fixed_seconds), format_short_duration(law.sample_seconds)
    return f"a step takes {fixed} and {each} a sample, ± {format_percent(law.relative_error)}"


def _gain_text(present: Comparison) -> str:
    """How much sooner than at the present size, and what that asks for."""
    text = f"{present.relative_time:.2f} times as quick to the same loss as {present.batch_size:,}"
    text += f" (90%: {present.low:.2f} to {present.high:.2f})"
    return f"{text}, in {present.epochs_ratio:.2f} times as many epochs"


def _schedule_text(recommendation: Recommendation) -> str:
    before = {one.name: one.steps for one in recommendation.workload.schedule}
    parts = [
        f"{clean(one.name)} {one.steps:,}"
        + (f" instead of {before[one.name]:,}" if one.name in before else "")
        for one in recommendation.schedule
    ]
    return f"{', '.join(parts)}: as many samples as before"


def _use_text(recommendation: Recommendation) -> str:
    factors = [f"batch size {recommendation.batch_size}"]
    if recommendation.accumulation_steps != 1:
        factors.append(f"{recommendation.accumulation_steps} accumulation steps")
    if recommendation.world_size != 1:
        factors.append(f"{recommendation.world_size} ranks")
    text = " x ".join(factors)
    if len(factors) > 1:
        text += f" = {recommendation.global_batch_size}"
    if recommendation.learning_rate is not None:
        text += f", learning rate {recommendation.learning_rate:.2g}"
    elif recommendation.learning_rate_factor is not None:
        text += f", learning rates × {recommendation.learning_rate_factor:.3g}"
    return text


def _ceiling_text(ceiling: Ceiling, workload: Workload) -> str:
    samples = "" if workload.dataset_size is None else f" of {_counted(workload.dataset_size, 'sample')}"
    reasons = {
        LimitedBy.MEMORY: "memory is the limit",
        LimitedBy.PLATEAU: "larger ones were not tried: throughput no longer rises",
        LimitedBy.DATASET: f"larger ones were not tried: the data set{samples} ends",
        LimitedBy.BUDGET: "larger ones would take more than the time allowed",
        LimitedBy.MAX_BATCH: "larger ones were not allowed",
        LimitedBy.SIZE_LIMIT: "larger ones fail for a reason other than memory",
    }
    reach = "up to" if ceiling.limited_by in (LimitedBy.MEMORY, LimitedBy.SIZE_LIMIT) else "at least"
    again = "; it passed again in a fresh process" if ceiling.verified else ""
    return f"{reach} {ceiling.batch_size}; {reasons[ceiling.limited_by]}{again}"


def _device_facts(device: Device) -> list[str]:
    limit = "no limit set" if device.limit_bytes is None else f"limit {format_bytes(device.limit_bytes)}"
    source = f": {clean(device.limit_source)}" if device.limit_source else ""
    facts = [_memory(device) or "memory unknown"]
    if device.threads is not None:
        facts.insert(0, _counted(device.threads, "thread"))
    if device.utilisation is not None:
        facts.append(f"{format_percent(device.utilisation)} busy")
    if device.driver:
        facts.append(f"driver {clean(device.driver)}")
    lines = [" · ".join(facts), limit + source]
    for holder in device.holders:
        held = "an unknown amount" if holder.memory_bytes is None else format_bytes(holder.memory_bytes)
        lines.append(f"{held} is held by pid {holder.pid} (`{shorten(clean(holder.name), _NAME_CELLS)}`)")
    return lines + [clean(note) for note in device.notes]


def _memory(device: Device) -> str:
    total, free = device.total_bytes, device.free_bytes
    if free is None:
        return "" if total is None else f"{format_bytes(total)} in all"
    return f"{format_bytes(free)} free" + ("" if total is None else f" of {format_bytes(total)}")


def _label(device: Device) -> str:
    return clean(device.label)


def _counted(count: int, noun: str) -> str:
    return f"{format_count(count)} {noun}" + ("" if count == 1 else "s")

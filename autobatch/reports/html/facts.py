"""Facts about device, workload and environment as pairs of a label and a value, in lists of the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timezone

from autobatch.records.device import Device
from autobatch.records.formatting import format_bytes, format_duration, parse_moment
from autobatch.records.recommendation import Environment
from autobatch.records.workload import Workload
from autobatch.reports.html.markup import Markup, element, join
from autobatch.reports.text.lines import clean, counted, shorten
from autobatch.reports.text.terminal import memory_text

Pair = tuple[str, Markup]

_NAME_CELLS = 100
# Names of models that say nothing about them: the target says more.
_GENERAL = ("", "Sequential", "Functional", "Module", "ModuleList", "Model")
_DATE_CELLS = 40


def of_device(device: Device) -> list[Pair]:
    """Return name, memory and limit of the device."""
    label = f" ({clean(device.label)})"
    threads = "" if device.threads is None else f", {counted(device.threads, 'thread')}"
    pairs = [("Device", join(_name(device.name), element("bdi", label), threads))]
    if text := memory_text(device):
        pairs.append(("Memory", join(text)))
    if device.limit_bytes is not None:
        source = f" ({clean(device.limit_source)})" if device.limit_source else ""
        pairs.append(("Limit", join(format_bytes(device.limit_bytes), element("bdi", source))))
    return pairs


def name_of(workload: Workload) -> str:
    """Return the name of the model; that of the target where the model's is a general one."""
    model, target = clean(workload.model), clean(workload.target)
    return target if model in _GENERAL and target else model


def of_workload(workload: Workload) -> list[Pair]:
    """Return model, data, loss, optimizer, target, and what was inferred, as far as they are there."""
    model = join(_name(workload.model), f", {counted(workload.parameters, 'parameter')}")
    samples = None if workload.dataset_size is None else counted(workload.dataset_size, "sample")
    data = element("span", "random inputs") if workload.synthetic else _name(workload.dataset)
    data = join(data, ", " if data and samples else None, samples)
    return _filled(
        ("Model", model),
        ("Data", data),
        ("Loss", _name(workload.loss)),
        ("Optimizer", _optimizer(workload)),
        ("Target", element("code", _path(workload.target)) if workload.target else Markup()),
        *(("Inferred", _name(guess)) for guess in workload.inferred),
    )


def _optimizer(workload: Workload) -> Markup:
    rate = workload.learning_rate
    name = _name(workload.optimizer)
    return join(name, f", learning rate {rate:.3g}") if name and rate is not None else name


def of_environment(environment: Environment, device: Device) -> list[Pair]:
    """Return versions, platform, processor, driver, the time of the search, and notes on the device."""
    return _filled(
        ("PyTorch", _name(environment.torch)),
        ("Python", _name(environment.python)),
        ("Platform", _name(environment.platform)),
        ("Processor", _name(environment.cpu)),
        ("Driver", _name(device.driver or "")),
        ("Took", join(format_duration(environment.elapsed_seconds))),
        *(("Note", _name(note)) for note in device.notes),
    )


def listed(pairs: Sequence[Pair]) -> Markup:
    """List the pairs side by side, each label above its value."""
    groups = (element("div", element("dt", label), element("dd", value)) for label, value in pairs)
    return element("dl", *groups, class_="facts")


def listed_in_rows(pairs: Sequence[Pair]) -> Markup:
    """List the pairs below each other, each label beside its value."""
    parts = (part for label, value in pairs for part in (element("dt", label), element("dd", value)))
    return element("dl", *parts, class_="said")


def date(started_at: str) -> Markup:
    """Return `1 March 2026, 12:00 UTC` for an ISO 8601 date, and any other text as it is."""
    try:
        moment = parse_moment(started_at)
        moment = moment.astimezone(timezone.utc) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        return element("bdi", shorten(clean(started_at), _DATE_CELLS))
    zone = " UTC" if moment.tzinfo else ""
    text = f"{moment.day} {moment:%B} {moment.year}, {moment:%H:%M}{zone}"
    return element("time", text, datetime=moment.isoformat())


def _filled(*pairs: Pair) -> list[Pair]:
    """Leave out the pairs without a value."""
    return [(label, value) for label, value in pairs if value]


def _name(text: str) -> Markup:
    """Return a text of the user's or the device's, on one line and isolated in its direction."""
    text = shorten(clean(text), _NAME_CELLS)
    return element("bdi", text) if text else Markup()


def _path(text: str) -> Markup:
    """Return a path in the same way; it may be broken after its dots and slashes."""
    first, *others = re.split(r"(?<=[./\\\\:])", shorten(clean(text), _NAME_CELLS))
    return element("bdi", first, *(join(element("wbr"), part) for part in others))

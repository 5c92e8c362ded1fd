"""A preview as text: every setting of the search that decides on its answer or its time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autobatch.records.device import Device
from autobatch.records.limits import Limits, Objective
from autobatch.records.preview import Preview
from autobatch.records.workload import StepCount, Workload
from autobatch.reports.text import preview_table

WORKLOAD = Workload(
    target="model.py",
    model="Net",
    parameters=1_000,
    loss="cross_entropy",
    optimizer="SGD",
    learning_rate=0.1,
    dataset="Images",
    dataset_size=1_437,
    batch_size=32,
    epochs=10.0,
    schedule=(StepCount(name="warmup_steps", steps=500),),
    inferred=("loss is cross-entropy",),
)
PREVIEW = Preview(
    workload=WORKLOAD,
    device=Device(kind="cpu", index=0, name="a CPU", threads=2),
    limits=Limits(),
    batch_size_source="of its DataLoader",
    start_seconds=4.2,
    cached=False,
    autobatch="1.0",
    torch="2.13",
)


def lines(preview: Preview) -> dict[str, str]:
    """The settings below the header, by their label."""
    _, _, settings = preview_table.render(preview).partition("\n\n")
    pairs = (line.split(maxsplit=1) for line in settings.splitlines())
    return {label: text for label, text in pairs if label}


def test_everything_that_was_detected_is_shown() -> None:
    header = preview_table.render(PREVIEW).partition("\n\n")[0]
    for fact in ("a CPU", "Net, 1,000 parameters", "Images, 1,437 samples", "SGD", "loss is cross-entropy"):
        assert fact in header
    assert lines(PREVIEW) == {
        "current": "batch size 32, of its DataLoader",
        "rate": "learning rate 0.1, of the optimizer",
        "epochs": "10",
        "schedule": "warmup_steps 500",
        "sizes": "from 1 to the largest that fits",
        "objective": "time",
        "check": "generalization check, within the same time",
        "start": "the worker took 4.20 s to start",
        "time": "at most 60.0 s (`--budget`)",
        "measured": "nothing",
    }


def test_what_is_missing_is_said() -> None:
    bare = replace(WORKLOAD, batch_size=None, epochs=None, learning_rate=None, schedule=())
    shown = lines(replace(PREVIEW, workload=bare))
    assert shown["current"] == "no batch size is declared: 32 stands for it"
    assert shown["epochs"].startswith("unknown: ")
    assert "rate" not in shown


@pytest.mark.parametrize(
    ("limits", "label", "text"),
    [
        (Limits(min_batch=8, max_batch=64, multiple_of=8), "sizes", "from 8 to 64, multiples of 8"),
        (Limits(global_batch=512), "sizes", "512 samples per optimizer step"),
        (Limits(objective=Objective.MEMORY), "objective", "memory"),
        (Limits(check=False), "check", "none (`--no-check`)"),
        (Limits(budget_seconds=300), "time", "at most 5"),
    ],
)
def test_limits_are_shown(limits: Limits, label: str, text: str) -> None:
    assert text in lines(replace(PREVIEW, limits=limits))[label]


def test_a_cached_answer_takes_no_time() -> None:
    assert lines(replace(PREVIEW, cached=True))["time"].startswith("none: the cache has the answer")


def test_a_hostile_name_is_harmless() -> None:
    hostile = replace(PREVIEW, batch_size_source="\x1b[2J")
    assert "\x1b" not in preview_table.render(hostile)

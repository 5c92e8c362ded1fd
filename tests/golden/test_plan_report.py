"""The report of a plan as people see it, at several widths, and as programs read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autobatch.planning import caveats
from autobatch.planning.catalogue import CATALOGUE
from autobatch.records.limits import Precision
from autobatch.records.plan import Asked, Fit, MemoryParts, Plan, PlannedDevice, Usage
from autobatch.records.workload import Workload
from autobatch.reports.text import plan_table
from autobatch.storage import codec

GIB, MIB = 1 << 30, 1 << 20
Golden = Callable[[str | Path, str], None]


def usage(size: int, activations_bytes: int) -> Usage:
    parts = MemoryParts(
        parameters_bytes=98 * MIB,
        gradients_bytes=98 * MIB,
        optimizer_bytes=196 * MIB,
        activations_bytes=activations_bytes,
        workspace_bytes=12 * MIB,
    )
    allocated = 404 * MIB + activations_bytes
    return Usage(
        batch_size=size, allocated_bytes=allocated, reserved_bytes=int(1.04 * allocated), parts=parts
    )


def device(name: str) -> PlannedDevice:
    return next(one for one in CATALOGUE if one.name == name)


WORKLOAD = Workload(
    target="model.py",
    model="ResNet",
    parameters=25_557_032,
    loss="cross_entropy",
    optimizer="AdamW",
    dataset="ImageFolder",
    dataset_size=1_281_167,
    precision=Precision.BF16,
)
SMALL = PlannedDevice(name="1GiB", total_bytes=GIB, source="as it was given")
PLAN = Plan(
    workload=WORKLOAD,
    channels_last=True,
    fits=(
        Fit(device=device("rtx3090"), batch_size=312, low=296, high=330, usage=usage(312, 21 * GIB)),
        Fit(device=device("h100"), batch_size=1187, low=1127, high=1204, usage=usage(1187, 75 * GIB)),
        Fit(device=SMALL, batch_size=0, low=0, high=0, usage=usage(1, 600 * MIB)),
    ),
    asked=Asked(usage=usage(300, 20 * GIB), smallest="h100"),
    accuracy=caveats.ACCURACY,
    assumptions=caveats.assumptions(WORKLOAD, channels_last=True, guessed=3),
    warnings=caveats.warnings({"rnn", "changes"}, {"cuda", "xpu"}),
    autobatch="0.1.0",
    torch="2.13.0",
)


@pytest.mark.parametrize("width", [40, 80])
def test_a_plan(width: int, golden: Golden) -> None:
    shown = plan_table.render(PLAN, width=width)
    assert max(map(len, shown.split("\n"))) <= width
    golden(f"text/plan_at_{width}.txt", shown)


def test_a_size_that_no_device_takes(golden: Golden) -> None:
    plan = replace(PLAN, asked=Asked(usage=usage(9000, 500 * GIB), smallest=None), warnings=())
    golden("text/plan_too_large.txt", plan_table.render(plan))


def test_the_json_says_that_it_is_a_prediction() -> None:
    document = json.loads(codec.render_plan(PLAN))
    assert document["schema"] == "autobatch-plan/1"
    assert document["ok"] is True
    assert document["predicted"] is True
    assert document["fits"][0]["device"]["name"] == "rtx3090"
    assert document["fits"][0]["usage"]["parts"]["activations_bytes"] == 21 * GIB
    assert document["asked"]["smallest"] == "h100"


def test_every_trait_has_its_words() -> None:
    kinds = {"cpu", "mps", "cuda"}
    assert len(caveats.warnings(set(caveats._TRAITS), kinds)) == len(caveats._TRAITS) + 2
    assert caveats.warnings(set(), {"cuda"}) == ()

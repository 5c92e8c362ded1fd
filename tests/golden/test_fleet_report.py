"""A fleet as people see it, at several widths, and as programs read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autobatch.decision.fleet import assemble
from autobatch.records.errors import AutobatchError
from autobatch.records.fleet import NodeKind, Prices
from autobatch.records.trial import Ceiling, LimitedBy
from autobatch.reports.text import fleet_table
from autobatch.storage import codec
from tests.decision.test_fleet import answer

Golden = Callable[[str | Path, str], None]

H100 = NodeKind(device="NVIDIA H100 80GB HBM3", devices=8)
T4 = NodeKind(device="NVIDIA T4")
CPU = NodeKind(device="AMD EPYC 7B13 64-Core Processor, 16 CPUs, 62 GiB")
PRICES = Prices(currency="EUR", per_hour={H100.name: 30.0, CPU.name: 0.8})
OPEN = Ceiling(batch_size=256, limited_by=LimitedBy.PLATEAU, verified=False)
LOST = AutobatchError("its process was lost twice, at last on the node `ip-10-0-0-7`", code="node_lost")
FLEET = assemble(
    "model.py",
    [
        (CPU, 12, replace(answer(2.5, 300.0, 0.9, size=32), ceiling=OPEN)),
        (H100, 2, answer(0.125, 210.0, 0.4, size=512)),
        (T4, 1, LOST),
    ],
    PRICES,
    version="0.1.0",
    warnings=(
        "the node `old` is left out: it has autobatch 0.0.9 and torch 2.13.0, not 0.1.0 and 2.13.0 as here",
    ),
)


@pytest.mark.parametrize("width", [40, 80])
def test_a_fleet(width: int, golden: Golden) -> None:
    shown = fleet_table.render(FLEET, width=width)
    assert max(map(len, shown.split("\n"))) <= width
    golden(f"text/fleet_at_{width}.txt", shown)


def test_a_fleet_without_prices_and_checks(golden: Golden) -> None:
    probed = [(CPU, 1, answer(2.5, None)), (T4, 2, answer(0.5, None))]
    golden(
        "text/fleet_unchecked.txt", fleet_table.render(assemble("model.py", probed, None, version="0.1.0"))
    )


def test_the_json_has_each_kind_with_its_whole_answer(golden: Golden) -> None:
    document = json.loads(codec.render_fleet(FLEET))
    assert (document["schema"], document["ok"]) == ("autobatch-fleet/1", True)
    assert [one["kind"] for one in document["members"]] == [H100.name, CPU.name, T4.name]
    assert document["members"][0]["answer"]["batch_size"] == 512
    for member in document["members"]:
        member["step_seconds"] = member["step_seconds"] and round(member["step_seconds"], 6)
        member["answer"] = None if member["answer"] is None else "as `autobatch probe --json` has it"
    golden("text/fleet.json", json.dumps(document, indent=2))

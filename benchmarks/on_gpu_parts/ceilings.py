"""Part 3: the ceiling of six workloads under a memory limit, and the truth from fresh processes.

The truth of an answer: training passes there in a fresh process, and fails 5% above.
"""

from __future__ import annotations

import importlib.util
from math import ceil
from typing import Any

from on_gpu_parts import device, programs
from on_gpu_parts.report import Report

WORKLOADS = ("cnn", "flash_transformer", "wide_mlp", "batch_norm", "variable_lengths", "lstm")
RECURRENT = ("variable_lengths", "lstm")
# The names of their packages.
PEERS = ("accelerate", "lightning")


def run(report: Report) -> None:
    limit_bytes = device.scale().limit_bytes
    for name in WORKLOADS:
        if name in RECURRENT and not device.is_gpu():
            report.add(workload=name, skipped="the test device has no fused recurrent cells")
            continue
        row = programs.probe(
            *(programs.target(name), "--fresh", "--device", device.name(), "--ceiling", "--no-check"),
            *("--memory-limit", f"{limit_bytes >> 20}MiB", "--budget", device.scale().ceiling_budget),
            seconds=report.seconds_left,
        )
        ceiling = row.get("answer", {}).get("ceiling") or {}
        if size := ceiling.get("batch_size"):
            for key, tried in (("at_answer", size), ("above", max(size + 1, ceil(1.05 * size)))):
                survived = programs.ask("survive", name, str(tried), seconds=report.seconds_left)
                row[key] = {"batch_size": tried, **survived}
        peers = {peer: _ask_peer(peer, name, report.seconds_left) for peer in PEERS}
        report.add(workload=name, limit_bytes=limit_bytes, **row, peers=peers)


def _ask_peer(peer: str, workload: str, seconds: float) -> dict[str, Any]:
    """The batch size that another tool's finder answers, or the reason why it was not asked."""
    if not device.is_gpu():
        return {"skipped": "it does not know the test device"}
    if importlib.util.find_spec(peer) is None:
        return {"skipped": "it is not installed"}
    return programs.ask("peers", peer, workload, seconds=seconds)

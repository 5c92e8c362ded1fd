"""Predicted peaks against real ones on a CPU: by a log of real storages, and by torch's profiler.

    python benchmarks/plan_cpu.py [--save FILE]

Ten models (step_models.py), three sizes, SGD and AdamW. The prediction comes from two traces without data, at
sizes 4 and 8, by the CPU's rules. The log counts every storage of a real step; the profiler every allocation
of torch's CPU allocator, including those inside of kernels. Both cover two steps from a fresh optimizer.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import torch
from step_models import OPTIMIZERS, SIZES, WORKLOADS, training_step
from torch.profiler import ProfilerActivity, profile

from autobatch.memory.storage_log import align, events_at, peak_bytes
from autobatch.memory.storage_recorder import Trace
from autobatch.memory.trace import trace_step

SMALL = (4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rows = [row for name in WORKLOADS for optimizer in OPTIMIZERS for row in compare(name, optimizer)]
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": {
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "summary": {
            against: summary([row[f"over_{against}"] for row in rows]) for against in ("log", "profiler")
        },
        "rows": rows,
    }
    print(json.dumps(report["summary"], indent=1))
    if options.save:
        options.save.write_text(json.dumps(report, indent=1) + "\n")


def compare(name: str, optimizer: str) -> list[dict[str, Any]]:
    """The three peaks of a model at each size, with the prediction's error against the two real ones."""
    small = [trace(name, optimizer, size, fake=True) for size in SMALL]
    lifetimes = align(small[0].events, SMALL[0], small[1].events, SMALL[1])
    if lifetimes is None:
        raise ValueError(f"{name}: the step's structure changes with its size")
    rows = []
    for size in SIZES:
        predicted = peak_bytes(events_at(lifetimes, size))
        logged = peak_bytes(trace(name, optimizer, size, fake=False).events)
        profiled = profiled_peak(name, optimizer, size)
        row = {
            "model": name,
            "optimizer": optimizer,
            "batch_size": size,
            "predicted_bytes": predicted,
            "log_bytes": logged,
            "profiler_bytes": profiled,
            "over_log": round(predicted / logged - 1, 5),
            "over_profiler": round(predicted / profiled - 1, 5),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def trace(name: str, optimizer: str, size: int, *, fake: bool) -> Trace:
    model = WORKLOADS[name].build()
    made = OPTIMIZERS[optimizer](model.parameters())
    return trace_step(model, [made], WORKLOADS[name].inputs(size), training_step(model, made), fake=fake)


def profiled_peak(name: str, optimizer: str, size: int) -> int:
    """The bytes held before the steps, plus the peak of the bytes that the steps allocate."""
    model = WORKLOADS[name].build()
    made = OPTIMIZERS[optimizer](model.parameters())
    batch = WORKLOADS[name].inputs(size)
    tensors = (*model.parameters(), *model.buffers(), batch)
    held = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    step = training_step(model, made)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(batch)
        step(batch)
    inner: Any = profiler.profiler
    changes = [event for event in inner.kineto_results.events() if event.name() == "[memory]"]
    current_bytes = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        current_bytes += change.nbytes()
        peak = max(peak, current_bytes)
    return int(held + peak)


def summary(errors: list[float]) -> dict[str, float]:
    return {
        "rows": len(errors),
        "median_abs": median(map(abs, errors)),
        "lowest": min(errors),
        "highest": max(errors),
        "within_1_percent": sum(abs(error) <= 0.01 for error in errors),
    }


if __name__ == "__main__":
    main()

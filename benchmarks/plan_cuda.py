"""Predicted peaks against real ones on a CUDA device: bytes allocated and reserved.

    python benchmarks/plan_cuda.py [--precision bf16] [--save FILE]

Ten models (step_models.py), three sizes, SGD and AdamW. A separate process without a GPU makes the
predictions. The real steps run in a process for each row, two steps from a fresh optimizer. Only the real
figures include the memory of cuBLAS and cuDNN. This benchmark has not run yet: results/ has no figure of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import torch
from step_models import OPTIMIZERS, SIZES, WORKLOADS, training_step

SMALL = (4, 8)
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rows = []
    for name in WORKLOADS:
        for optimizer in OPTIMIZERS:
            predictions = in_child(predict, name, optimizer, options.precision)
            for size, prediction in zip(SIZES, predictions, strict=True):
                real = in_child(measure, name, optimizer, options.precision, size)
                row = {"model": name, "optimizer": optimizer, "batch_size": size, **prediction, **real}
                rows.append(row)
                print(row, flush=True)
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": in_child(environment),
        "precision": options.precision,
        "summary": {kind: errors(rows, kind) for kind in ("allocated", "reserved")},
        "rows": rows,
    }
    print(json.dumps(report["summary"], indent=1))
    if options.save:
        options.save.write_text(json.dumps(report, indent=1) + "\n")


def in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a separate process, because CUDA's rules and memory stay with a process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def predict(name: str, optimizer: str, precision: str) -> list[dict[str, int]]:
    from autobatch.memory import cuda_rules
    from autobatch.memory.storage_log import align
    from autobatch.memory.trace import trace_step
    from autobatch.planning.capacity import StepMemory

    cuda_rules.install()
    traces = []
    for size in SMALL:
        model = WORKLOADS[name].build()
        made = OPTIMIZERS[optimizer](model.parameters())
        step = under_autocast(training_step(model, made), precision, "cpu")
        traces.append(trace_step(model, [made], WORKLOADS[name].inputs(size), step, fake=True))
    lifetimes = align(traces[0].events, SMALL[0], traces[1].events, SMALL[1])
    if lifetimes is None:
        raise ValueError(f"{name}: the step's structure changes with its size")
    memory = StepMemory(lifetimes)
    return [
        {
            "predicted_allocated_bytes": usage.allocated_bytes,
            "predicted_reserved_bytes": usage.reserved_bytes,
        }
        for usage in map(memory.usage, SIZES)
    ]


def measure(name: str, optimizer: str, precision: str, size: int) -> dict[str, int]:
    model = WORKLOADS[name].build().to("cuda")
    made = OPTIMIZERS[optimizer](model.parameters())
    batch = WORKLOADS[name].inputs(size).to("cuda")
    step = under_autocast(training_step(model, made), precision, "cuda")
    step(batch)
    step(batch)
    torch.cuda.synchronize()
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def under_autocast(
    step: Callable[[torch.Tensor], None], precision: str, device: str
) -> Callable[[torch.Tensor], None]:
    dtype = DTYPES[precision]

    def run(batch: torch.Tensor) -> None:
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            step(batch)

    return run


def environment() -> dict[str, str]:
    return {
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "device": torch.cuda.get_device_name(),
    }


def errors(rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """The relative errors of the predicted bytes, `kind` allocated or reserved."""
    relative = [row[f"predicted_{kind}_bytes"] / row[f"{kind}_bytes"] - 1 for row in rows]
    return {
        "rows": len(relative),
        "median_abs": median(map(abs, relative)),
        "lowest": min(relative),
        "highest": max(relative),
    }


if __name__ == "__main__":
    main()

"""Part 4: predicted peaks, frozen before any GPU ran them, against those that the allocator counts.

    python -m on_gpu_parts.plans       # predict anew and write predictions.json; on a CPU, in some minutes

Eight families of step_models.py, five kinds of step each. The real peak counts from the process after a
warm-up, so CUDA's context and the first workspace of cuBLAS are left out; the workspaces of cuDNN count.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from step_models import WORKLOADS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from on_gpu_parts import device
from on_gpu_parts.report import Report

FROZEN = Path(__file__).with_name("predictions.json")
CONVOLUTIONAL = {"cnn": 512, "resnet": 512, "unet": 2048, "depthwise": 512}
OTHER = {"mlp": 16_384, "transformer": 256, "transformer_dropout": 256, "lstm": 4096}
KINDS = ("fp32", "bf16", "fused_adamw")
# A step is traced at these sizes, which give the peak at any other.
TRACED = (4, 8)
STEPS = 3


@dataclass(frozen=True)
class Case:
    family: str
    kind: str
    batch_size: int

    @property
    def small_size(self) -> int:
        """A size for the test device."""
        return max(2, self.batch_size // 64)


class Recomputed(nn.Module):
    """The layers of a model, whose activations are computed again in the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(model.children() if isinstance(model, nn.Sequential) else [model])

    def forward(self, values: Tensor) -> Tensor:
        for layer in self.layers:
            values = checkpoint(layer, values, use_reentrant=False)
        return values


# Compiling takes longest, so it comes last.
CASES = tuple(
    Case(family, kind, size)
    for kinds in (KINDS, ("channels_last", "checkpointing"), ("compile",))
    for kind in kinds
    for family, size in {**CONVOLUTIONAL, **OTHER}.items()
    if (kind != "channels_last" or family in CONVOLUTIONAL) and (kind != "checkpointing" or family in OTHER)
)


def build(case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model, not compiled, and its optimizer, on the CPU."""
    model = WORKLOADS[case.family].build()
    if case.kind == "checkpointing":
        model = Recomputed(model)
    fused = True if case.kind == "fused_adamw" else None
    return model, torch.optim.AdamW(model.parameters(), fused=fused)


def training_step(
    case: Case, forward: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, device_type: str
) -> Callable[[Tensor], None]:
    def step(batch: Tensor) -> None:
        precision: AbstractContextManager[Any] = nullcontext()
        if case.kind == "bf16":
            precision = torch.autocast(device_type, torch.bfloat16)
        with precision:
            loss = forward(batch).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def run(report: Report) -> None:
    device.prepare()
    device.warm_up()
    rows = []
    for case, predicted in zip(CASES, json.loads(FROZEN.read_text(encoding="utf-8"))["rows"], strict=True):
        named = {"family": case.family, "kind": case.kind}
        if case.kind == "compile" and not device.is_gpu():
            report.add(**named, skipped="torch.compile has no backend for the test device")
            continue
        size = case.batch_size if device.is_gpu() else case.small_size
        usage = predicted["full"] if device.is_gpu() else predicted["small"]
        try:
            measured = measure(case, size)
        except RuntimeError as error:
            report.add(**named, batch_size=size, error=f"{type(error).__name__}: {str(error)[:300]}")
            continue
        rows.append({**named, "batch_size": size, "predicted": usage, "measured": measured})
        report.add(**rows[-1])
        report.note(summary={kind: errors(rows, kind) for kind in ("allocated_bytes", "reserved_bytes")})


def measure(case: Case, size: int) -> dict[str, int]:
    """The peaks of training steps above the device's memory before the model."""
    allocated, reserved = device.start_peak()
    model, optimizer = build(case)
    model.to(device.name())
    batch = WORKLOADS[case.family].inputs(size).to(device.name())
    if case.kind == "channels_last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = batch.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(model) if case.kind == "compile" else model
    step = training_step(case, forward, optimizer, device.name())
    for _ in range(STEPS):
        step(batch)
    peak_allocated, peak_reserved = device.peak()
    return {"allocated_bytes": peak_allocated - allocated, "reserved_bytes": peak_reserved - reserved}


def errors(rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """The relative errors of the predicted bytes."""
    relative = [row["predicted"][kind] / row["measured"][kind] - 1 for row in rows]
    return {
        "rows": len(relative),
        "median_absolute": round(median(map(abs, relative)), 4),
        "lowest": round(min(relative), 4),
        "highest": round(max(relative), 4),
    }


def predict(case: Case) -> dict[str, Any]:
    """Peaks at both sizes of a case, in a process with CUDA's rules."""
    from autobatch.memory.storage_log import align
    from autobatch.memory.trace import trace_step
    from autobatch.planning.capacity import StepMemory

    traces = []
    for size in TRACED:
        model, optimizer = build(case)
        step = training_step(case, model, optimizer, "cpu")
        batch = WORKLOADS[case.family].inputs(size)
        layout = case.kind == "channels_last"
        traces.append(trace_step(model, [optimizer], batch, step, fake=True, channels_last=layout))
    lifetimes = align(traces[0].events, TRACED[0], traces[1].events, TRACED[1])
    if lifetimes is None:
        raise ValueError(f"{case}: the structure of the step changes with its size")
    memory = StepMemory(lifetimes)
    row: dict[str, Any] = {"family": case.family, "kind": case.kind}
    for name, size in (("full", case.batch_size), ("small", case.small_size)):
        usage = memory.usage(size)
        row[name] = {
            "batch_size": size,
            "allocated_bytes": usage.allocated_bytes,
            "reserved_bytes": usage.reserved_bytes,
        }
    return row


def main() -> None:
    from autobatch.memory import cuda_rules

    cuda_rules.install()
    rows = []
    for case in CASES:
        rows.append(predict(case))
        print(rows[-1], flush=True)
    facts = {"torch": str(torch.__version__), "compile": "predicted as the eager step", "rows": rows}
    FROZEN.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

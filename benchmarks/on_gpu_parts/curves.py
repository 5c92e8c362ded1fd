"""Part 5: step time over batch size of ten models, with clocks and utilisation where NVML is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from step_models import OPTIMIZERS, WORKLOADS, training_step
from torch import Tensor

from on_gpu_parts import device
from on_gpu_parts.report import Report

WARM_UP_STEPS, ROUNDS = 3, 3
# A model's curve ends where a step takes this long, or its share of the time is over.
LONGEST_STEP_SECONDS = 1.0


def run(report: Report) -> None:
    device.prepare()
    device.warm_up()
    read_clocks = _clocks()
    for index, name in enumerate(WORKLOADS):
        share_seconds = report.seconds_left / (len(WORKLOADS) - index)
        end = time.monotonic() + share_seconds
        size = 1
        while size <= device.scale().largest_batch and time.monotonic() < end:
            device.start_peak()
            try:
                steps = time_steps(name, size)
            except torch.OutOfMemoryError:
                report.add(model=name, batch_size=size, outcome="out_of_memory")
                break
            except RuntimeError as error:
                report.add(model=name, batch_size=size, outcome="failed", detail=str(error)[:300])
                break
            report.add(model=name, batch_size=size, outcome="ok", step_seconds=steps, **read_clocks())
            if min(steps) > LONGEST_STEP_SECONDS:
                break
            size *= 2


def time_steps(name: str, size: int) -> list[float]:
    """Seconds per step in each of some rounds."""
    model = WORKLOADS[name].build().to(device.name())
    step = training_step(model, OPTIMIZERS["adamw"](model.parameters()))
    batch = WORKLOADS[name].inputs(size).to(device.name())
    _seconds(step, batch, WARM_UP_STEPS)
    steps = max(1, round(device.scale().round_seconds / max(1e-6, _seconds(step, batch, 1))))
    return [_seconds(step, batch, steps) / steps for _ in range(ROUNDS)]


def _seconds(step: Callable[[Tensor], None], batch: Tensor, steps: int) -> float:
    torch.accelerator.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        step(batch)
    torch.accelerator.synchronize()
    return time.perf_counter() - begin


def _clocks() -> Callable[[], dict[str, Any]]:
    """A reading of NVML for this GPU: clocks in MHz, utilisation in percent; empty where there is none."""
    if not device.is_gpu():
        return dict
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return dict

    def read() -> dict[str, Any]:
        try:
            return {
                "sm_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
                "memory_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
                "utilisation_percent": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            }
        except pynvml.NVMLError as error:
            return {"nvml_error": str(error)}

    return read

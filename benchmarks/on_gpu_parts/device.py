"""The device under measurement: a GPU, or the tests' own device where there is none."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import Any

import torch

VARIABLE = "ON_GPU_DEVICE"
# Each process that imports a target writes a line into this file.
PROCESSES = "ON_GPU_PROCESSES"
MIB = 1 << 20


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements: the test device computes on a CPU, and has little memory."""

    limit_bytes: int
    held_bytes: int
    budget: str
    ceiling_budget: str
    program_seconds: float
    divisor: int
    round_seconds: float
    largest_batch: int
    epochs: int
    training_samples: int


_GPU = Scale(4096 * MIB, 1024 * MIB, "15s", "25s", 60.0, 1, 0.15, 1 << 16, 4, 4096)
_TEST = Scale(4 * MIB, 8 * MIB, "4s", "180s", 240.0, 64, 0.01, 4, 1, 128)


def name() -> str:
    return os.environ.get(VARIABLE, "cuda")


def is_gpu() -> bool:
    return name() == "cuda"


def scale() -> Scale:
    return _GPU if is_gpu() else _TEST


def prepare() -> str:
    """Make the device usable in this process and return its name; targets call it when they are imported."""
    if (noted := os.environ.get(PROCESSES)) is not None:
        with open(noted, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    if not is_gpu():
        from tests.accelerator import testdev

        testdev.register()
    return name()


def memory() -> Any:
    """The module that counts the device's memory: `torch.accelerator` does it since torch 2.9 only."""
    return torch.cuda if is_gpu() else torch.accelerator


def total_bytes() -> int:
    total: int = (torch.cuda.mem_get_info() if is_gpu() else torch.accelerator.get_memory_info())[1]
    return total


def start_peak() -> tuple[int, int]:
    """(allocated, reserved) bytes now, with nothing cached, as the start of a new peak."""
    gc.collect()
    memory().synchronize()
    memory().empty_cache()
    memory().reset_peak_memory_stats()
    return memory().memory_allocated(), memory().memory_reserved()


def peak() -> tuple[int, int]:
    """(allocated, reserved) bytes at most since `start_peak`."""
    memory().synchronize()
    return memory().max_memory_allocated(), memory().max_memory_reserved()


def warm_up() -> None:
    """The context and the matrix library's workspace, which no measurement should count."""
    weight = torch.zeros(64, 64, device=name(), requires_grad=True)
    (weight @ weight).sum().backward()
    torch.accelerator.synchronize()

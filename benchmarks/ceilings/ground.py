"""What all methods stand on, in their own processes: a workload, and the memory that it may take."""

from __future__ import annotations

import importlib.util
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from autobatch.devices.cpu import CpuBackend
from autobatch.workload.model_size import model_bytes

FOLDER = Path(__file__).resolve().parents[1] / "workloads"
SEED = 0


def load(name: str) -> ModuleType:
    """The module of a workload, imported from its file."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def limit_memory(memory_bytes: int, model: nn.Module | None = None) -> None:
    """Warms torch up, then limits this process as autobatch limits its workers.

    `model`: the one that is there already; its bytes are part of `memory_bytes`.
    """
    backend = CpuBackend()
    backend.warm_up()
    backend.limit_memory(memory_bytes, held_bytes=model_bytes(model) if model is not None else 0)


def lift_limit() -> None:
    """Gives this process its memory back, so that it can tell how it ended."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def shuffled(workload: ModuleType, batch_size: int) -> DataLoader[Any]:
    """The loader of an ordinary training, shuffled by a fixed seed."""
    return DataLoader(
        workload.dataset,
        batch_size=batch_size,
        shuffle=True,
        collate_fn=getattr(workload, "collate_fn", None),
        generator=torch.Generator().manual_seed(SEED),
    )


def worst_batches(workload: ModuleType, batch_size: int, count: int) -> Iterator[Any]:
    """Full batches as a training may meet them at worst: the longest samples where lengths differ."""
    indices = range(len(workload.dataset))
    collate_fn = getattr(workload, "collate_fn", None)
    if collate_fn is not None:
        longest = sorted(indices, key=lambda index: -len(workload.dataset[index]))[:batch_size]
        rows = [longest] * count
    else:
        draws = random.Random(SEED)
        rows = [draws.sample(indices, batch_size) for _ in range(count)]
    return iter(DataLoader(workload.dataset, batch_sampler=rows, collate_fn=collate_fn))

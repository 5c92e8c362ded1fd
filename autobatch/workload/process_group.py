"""The ranks that train together, as a rank's worker sees them: the process group of torch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autobatch.records.errors import ranks_differ


class Ranks:
    """A single rank: nothing is exchanged."""

    rank = 0
    count = 1

    def replicated(self, module: nn.Module) -> Callable[..., Any]:
        """The module as it is called in a training step."""
        return module

    def highest(self, *values: float) -> tuple[float, ...]:
        """The highest of each value over all ranks. Every rank has to call it."""
        return values

    def require_alike(self, model: str) -> None:
        """Raises TargetError, on every rank, where models differ; `model` describes this rank's."""


class RanksTogether(Ranks):
    """Ranks in torch's default process group: gloo on a CPU, else torch's backend for the device.

    As it is the default group, the user's `parallelize` needs no argument for it: `fully_shard(model)`.
    """

    def __init__(
        self, rank: int, count: int, device: str, host: str, port: int, prefix: str, timeout_seconds: float
    ) -> None:
        """Returns once all ranks have joined. Raises torch's errors, a timeout included."""
        timeout = timedelta(seconds=timeout_seconds)
        self.rank = rank
        self.count = count
        self._device = torch.device(device)
        if self._device.type != "cpu":
            torch.get_device_module(self._device).set_device(self._device)
        store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
        dist.init_process_group(
            dist.get_default_backend_for_device(self._device),
            store=dist.PrefixStore(prefix, store),
            rank=rank,
            world_size=count,
            timeout=timeout,
        )

    def replicated(self, module: nn.Module) -> Callable[..., Any]:
        """The module in DistributedDataParallel with its default settings."""
        return DistributedDataParallel(module)

    def highest(self, *values: float) -> tuple[float, ...]:
        """The highest of each value over all ranks. Every rank has to call it."""
        tensor = torch.tensor(values, dtype=torch.float32, device=self._device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def require_alike(self, model: str) -> None:
        """Raises TargetError, on every rank, where models differ; `model` describes this rank's."""
        models: list[str] = [""] * self.count
        dist.all_gather_object(models, model)
        other = next((rank for rank, name in enumerate(models) if name != models[0]), None)
        if other is not None:
            raise ranks_differ(tuple(f"rank {rank}: {models[rank]}" for rank in (0, other)))


class BatchLoss(nn.Module):
    """The loss of a batch as a module, so that a wrapper around it sees every forward pass."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> torch.Tensor:
        return self._loss(batch)

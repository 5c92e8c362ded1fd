"""The ranks that train together, as one of them sees them inside its worker: a process group of their own."""

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
    """One rank alone: nothing is exchanged."""

    rank = 0
    count = 1

    def replicated(self, module: nn.Module) -> Callable[..., Any]:
        """The module as it is called in a training step."""
        return module

    def highest(self, *values: float) -> tuple[float, ...]:
        """Of each value the highest that a rank has given; all ranks have to ask."""
        return values

    def require_alike(self, model: str) -> None:
        """Raises TargetError, on every rank, where ranks have other models; `model` describes this one's."""


class RanksTogether(Ranks):
    """Ranks that form torch's default process group: gloo on a CPU, else what torch has for the device.

    As it is the default one, a `parallelize` of the user's needs no arguments for it: `fully_shard(model)`.
    """

    def __init__(
        self, rank: int, count: int, device: str, host: str, port: int, prefix: str, timeout_seconds: float
    ) -> None:
        """Returns once all ranks are there. Raises what torch raises, within the timeout."""
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
        """Of each value the highest that a rank has given; all ranks have to ask."""
        told = torch.tensor(values, dtype=torch.float32, device=self._device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return tuple(told.tolist())

    def require_alike(self, model: str) -> None:
        """Raises TargetError, on every rank, where ranks have other models; `model` describes this one's."""
        models: list[str] = [""] * self.count
        dist.all_gather_object(models, model)
        other = next((rank for rank, one in enumerate(models) if one != models[0]), None)
        if other is not None:
            raise ranks_differ(tuple(f"rank {rank}: {models[rank]}" for rank in (0, other)))


class BatchLoss(nn.Module):
    """The loss of a batch as a module: what wraps it sees every forward pass, whatever computes that."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> torch.Tensor:
        return self._loss(batch)

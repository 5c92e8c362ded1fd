"""One rank of a test: joins a process group, calls `find` with a fault of its own, and says what came of it.

    python program.py RANK RANKS PORT FOLDER SCENARIO

Writes `RANK.json`: the answer or the error, and the processes that are left afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import autobatch
from autobatch import AutobatchError, Limits

MIB = 1 << 20
AT = 8


class Net(nn.Module):
    """A small model in which `rank` does `fault` when it sees AT samples or more in training."""

    def __init__(self, fault: str = "", rank: int = -1, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))
        self.fault, self.rank = fault, rank

    def forward(self, x: torch.Tensor) -> Any:
        if self.fault and self.training and len(x) >= AT and _rank() == self.rank:
            FAULTS[self.fault]()
        return self.layers(x)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else -1


def _kill_parent() -> None:
    """Ends the rank's own process, which is the parent of the worker that this session comes from."""
    worker = psutil.Process().parent()
    assert worker is not None
    parent = worker.parent()
    assert parent is not None
    parent.kill()
    time.sleep(600)


def _raise() -> None:
    raise ValueError("not with me")


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.1)


FAULTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(600),
    "raise": _raise,
    "slow": lambda: time.sleep(0.05),
    "kill_parent": _kill_parent,
}


def counting(model: nn.Module) -> nn.Module:
    """DistributedDataParallel that prints a line for each bucket that it exchanges."""
    wrapped = DistributedDataParallel(model)

    # Without annotations: torch refuses those that are strings.
    def hook(state, bucket):
        with open(os.environ["COUNTED"], "a") as file:
            file.write(f"{dist.get_rank()}\n")
        total = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return total.then(lambda done: done.value()[0] / dist.get_world_size())

    wrapped.register_comm_hook(None, hook)
    return wrapped


def sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


def data(samples: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 16, generator=generator)
    return x, (x.sum(1) > 0).long()


def arguments(scenario: str, rank: int) -> dict[str, Any]:
    limits = Limits(budget_seconds=8.0, trial_timeout_seconds=60.0, max_batch=16, check=False)
    model: nn.Module = Net()
    more: dict[str, Any] = {"limits": limits}
    name, _, of_rank = scenario.partition(":")
    if name in FAULTS:
        model = Net(name, int(of_rank))
        more["limits"] = Limits(budget_seconds=60.0, trial_timeout_seconds=10.0, max_batch=16, check=False)
    if name == "slow":
        model = Net(name, int(of_rank))
        limits = Limits(budget_seconds=8.0, trial_timeout_seconds=60.0, check=False)
        more["limits"] = replace(limits, min_batch=AT, max_batch=16, sizes_per_rank=True)
    if name == "memory":
        model = Net(width=4096)
        memory_bytes = (40 if rank == int(of_rank) else 400) * MIB
        more["limits"] = Limits(
            budget_seconds=20.0,
            trial_timeout_seconds=60.0,
            memory_bytes=memory_bytes,
            ceiling=True,
            check=False,
        )
    if name == "counted":
        more["parallelize"] = counting
    if name == "sharded":
        more["parallelize"] = sharded
        more["optimizer"] = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3)
    if name == "checked":
        more["limits"] = Limits(budget_seconds=30.0, trial_timeout_seconds=60.0, max_batch=64)
        more["batch_size"] = 8
    if name == "differ":
        model = Net(width=64 + rank)
    if name == "wrapped":
        model = DistributedDataParallel(model)
    samples = 1 << 15 if name == "memory" else 2048
    return {"model": model, "dataset": data(samples), **more}


def main() -> None:
    rank, ranks, port, folder, scenario = (*map(int, sys.argv[1:4]), *sys.argv[4:6])
    torch.set_num_threads(1)
    os.environ["COUNTED"] = str(Path(folder) / "counted")
    store = dist.TCPStore("127.0.0.1", port, ranks, rank == 0, timeout=timedelta(seconds=120))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=120))
    if scenario.startswith("absent") and rank == int(scenario.partition(":")[2]):
        _wait_for(Path(folder) / "0.json")
        return
    said: dict[str, Any] = {}
    given = arguments(scenario, rank)
    if scenario.startswith("absent"):
        given["limits"] = Limits(trial_timeout_seconds=3.0)
    before = [p.detach().clone() for p in given["model"].parameters()]
    try:
        found = autobatch.find(**given)
        said["answer"] = asdict(found)
        # The user's own group goes on as it was.
        total = torch.ones(1)
        dist.all_reduce(total)
        said["group"] = float(total)
    except AutobatchError as error:
        said["error"] = {"code": error.code, "message": error.message, "facts": error.facts}
    said["unchanged"] = all(map(torch.equal, before, given["model"].parameters()))
    said["left"] = [one.cmdline() for one in psutil.Process().children(recursive=True)]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(said, default=str))
    dist.barrier() if "answer" in said else None


if __name__ == "__main__":
    main()

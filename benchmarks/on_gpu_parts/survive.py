"""One training in a process of its own: `python -m on_gpu_parts.survive TARGET BATCH_SIZE`.

Prints whether ten steps and an evaluation fit into the memory limit. The limit counts what training takes
above the process after a warm-up, as `--memory-limit` does.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from on_gpu_parts import device, programs

STEPS = 10


class Training:
    """The plain loop of a target under the memory limit."""

    def __init__(self, target: str) -> None:
        self._device = device.prepare()
        device.warm_up()
        rest_bytes = device.memory().memory_allocated()
        self._facts = runpy.run_path(programs.target(target))
        torch.manual_seed(0)
        self.model: nn.Module = self._facts["build_model"]().to(self._device)
        _limit(self._device, device.scale().limit_bytes + rest_bytes)

    def run(self, batch_size: int, steps: int = STEPS) -> None:
        """Training steps and an evaluation, on the largest samples."""
        optimizer = self.make_optimizer()
        self.model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            self._loss_of(batch_size).backward()
            optimizer.step()
        self.model.eval()
        with torch.no_grad():
            self._loss_of(batch_size)
        torch.accelerator.synchronize()

    def make_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self._facts["make_optimizer"](self.model.parameters())
        return optimizer

    def samples(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of the largest samples, on the CPU."""
        inputs, targets = self._facts["largest_samples"](batch_size)
        return inputs, targets

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._facts["loss_fn"](self.model(inputs), targets)
        return loss

    def _loss_of(self, batch_size: int) -> torch.Tensor:
        return self.loss(*(part.to(self._device) for part in self.samples(batch_size)))


def _limit(name: str, limit_bytes: int) -> None:
    module: Any = torch.get_device_module(name)
    set_fraction: Callable[..., None] = module.set_per_process_memory_fraction
    set_fraction(min(1.0, math.nextafter(limit_bytes / device.total_bytes(), math.inf)))


def main() -> None:
    target, batch_size = sys.argv[1], int(sys.argv[2])
    training = Training(target)
    try:
        training.run(batch_size)
    except RuntimeError as error:
        answer = {"survived": False, "error": f"{type(error).__name__}: {str(error)[:200]}"}
    else:
        answer = {"survived": True}
    print(json.dumps({**answer, "peak_bytes": device.memory().max_memory_allocated()}))


if __name__ == "__main__":
    main()

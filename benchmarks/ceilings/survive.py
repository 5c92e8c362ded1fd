"""One training in a process of its own: do ten steps and an evaluation at a batch size fit into the memory.

    python -m ceilings.survive WORKLOAD BATCH_SIZE MEMORY_BYTES

Prints one JSON object: `survived`, the `steps` that it took, and the `error`. One that dies prints nothing.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ceilings import ground

STEPS = 10


class Training:
    """The plain loop that a user writes. `steps`: how many are done."""

    def __init__(self, workload: ModuleType, model: nn.Module) -> None:
        self._workload = workload
        self.model = model
        self.steps = 0

    def run(self, batches: Any) -> None:
        """Ten steps and an evaluation of one batch more."""
        optimizer = self._workload.make_optimizer(self.model.parameters())
        for _ in range(STEPS):
            inputs, target = next(batches)
            optimizer.zero_grad()
            loss = self._workload.loss_fn(self.model(inputs), target)
            loss.backward()
            optimizer.step()
            self.steps += 1
        self.model.eval()
        with torch.no_grad():
            inputs, target = next(batches)
            self._workload.loss_fn(self.model(inputs), target)


def main() -> None:
    name, batch_size, memory_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.manual_seed(ground.SEED)
    workload = ground.load(name)
    training = Training(workload, workload.build_model())
    error = f"the data set has {len(workload.dataset)} samples only"
    if batch_size <= len(workload.dataset):
        batches = ground.worst_batches(workload, batch_size, STEPS + 1)
        ground.limit_memory(memory_bytes, training.model)
        error = _error_of(training, batches)
    print(json.dumps({"survived": not error, "steps": training.steps, "error": error}))


def _error_of(training: Training, batches: Any) -> str:
    try:
        training.run(batches)
    except Exception as failure:
        ground.lift_limit()
        told = str(failure).partition(": you tried")[0][:160]
        return f"after {training.steps} steps: {type(failure).__name__}: {told}"
    return ""


if __name__ == "__main__":
    main()

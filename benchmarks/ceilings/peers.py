"""One answer of one peer, in a process of its own.

    python -m ceilings.peers METHOD MEMORY_BYTES RESULT_FILE

The workload comes from the environment: see counted.py. Writes a JSON object with `batch_size` or `error`,
and the clock at which the search began.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ceilings import counted, ground

TRIAL_STEPS = 3  # what Lightning runs at each size; accelerate leaves it to the function
NO_LIMIT_OF_ITS_OWN = 8192  # where Lightning stops too

Search = Callable[[], int | None]


def lightning(mode: str) -> Callable[[int], Search]:
    """Lightning's `Tuner.scale_batch_size` with its default arguments."""

    def prepare(memory_bytes: int) -> Search:
        import lightning.pytorch as pl
        from lightning.pytorch.tuner.tuning import Tuner

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.batch_size = 2
                self.model = counted.build_model()

            def training_step(self, batch: Any, index: int) -> torch.Tensor:
                inputs, target = batch
                loss: torch.Tensor = counted.loss_fn(self.model(inputs), target)
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                optimizer: torch.optim.Optimizer = counted.make_optimizer(self.parameters())
                return optimizer

            def train_dataloader(self) -> Any:
                return ground.shuffled(counted.workload, self.batch_size)

        module = Module()
        trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        tuner = Tuner(trainer)
        ground.limit_memory(memory_bytes, module)
        return lambda: tuner.scale_batch_size(module, mode=mode)

    return prepare


def accelerate(start: int | None) -> Callable[[int], Search]:
    """accelerate's `find_executable_batch_size` over three training steps; `start`: its default is 128."""

    def prepare(memory_bytes: int) -> Search:
        from accelerate import Accelerator
        from accelerate.utils import find_executable_batch_size

        accelerator = Accelerator(cpu=True)

        def train(batch_size: int) -> int:
            accelerator.free_memory()
            model = counted.build_model()
            optimizer = counted.make_optimizer(model.parameters())
            loader = ground.shuffled(counted.workload, batch_size)
            model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
            for _, (inputs, target) in zip(range(TRIAL_STEPS), loader, strict=False):
                optimizer.zero_grad()
                accelerator.backward(counted.loss_fn(model(inputs), target))
                optimizer.step()
            return batch_size

        given = {} if start is None else {"starting_batch_size": start}
        search = find_executable_batch_size(**given)(train)
        ground.limit_memory(memory_bytes)
        return lambda: int(search())

    return prepare


def batch_finder(memory_bytes: int) -> Search:
    """batch-finder's `find_max_minibatch`, told the inputs' shape and type and the size of the vocabulary."""
    from batch_finder import find_max_minibatch

    inputs, _ = next(ground.worst_batches(counted.workload, 1, 1))
    name = next(iter(inspect.signature(counted.build_model().forward).parameters))
    dimensions = ", ".join(["b", *(str(length) for length in inputs.shape[1:])])
    kind = ", int" if inputs.dtype == torch.int64 else ""
    shapes = {name: f"({dimensions}){kind}", "#constraints": "b=-1"}
    ground.limit_memory(memory_bytes)
    return lambda: find_max_minibatch(_with_vocabulary, input_shapes=shapes, device=torch.device("cpu"))


def _with_vocabulary() -> nn.Module:
    """The model with what batch-finder draws codes from. A function of this module: it is pickled."""
    model = counted.build_model()
    embedding = next((one for one in model.modules() if isinstance(one, nn.Embedding)), None)
    if embedding is not None:
        model.config = SimpleNamespace(vocab_size=embedding.num_embeddings)  # type: ignore[assignment]
    return model


METHODS: dict[str, Callable[[int], Search]] = {
    "lightning_power": lightning("power"),
    "lightning_binsearch": lightning("binsearch"),
    "accelerate": accelerate(None),
    "accelerate_8192": accelerate(NO_LIMIT_OF_ITS_OWN),
    "batch_finder": batch_finder,
}


def main() -> None:
    method, memory_bytes, result_file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.manual_seed(ground.SEED)
    said: dict[str, object] = {}
    try:
        search = METHODS[method](memory_bytes)
        said["began"] = time.time()
        said["batch_size"] = search()
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        said["error"] = f"{type(error).__name__}: {lines[0][:200]}"
        raise
    finally:
        ground.lift_limit()
        result_file.write_text(json.dumps(said))


if __name__ == "__main__":
    main()

"""Traces the memory of a training step, inside the worker: on real tensors on a CPU, else on fake ones."""

from __future__ import annotations

from autobatch import compilation
from autobatch.devices.base import Backend
from autobatch.memory.storage_log import lines_of
from autobatch.memory.trace import trace_step
from autobatch.probe.wire import Traced
from autobatch.targets import told
from autobatch.workload import Trainer

# Pairs of sizes to trace, until both of one have the same structure. Sizes below 4 may take ways of their own
# (a batch that is split into parts, say), and large ones would cost real memory on a CPU.
_PAIRS = ((4, 8), (16, 32))


def run(trainer: Trainer, backend: Backend, *, without_data: bool = False) -> Traced:
    """The bytes alive at the peak at any size. Whatever goes wrong is said in place of lines."""
    fake = without_data or backend.torch_device != "cpu"
    trainer.use_device("cpu")
    # What there is to take at any size shows at a batch of none.
    smallest = 0.0 if without_data else 1.0
    left_out = "it was traced without its compilation" if compilation.is_compiled(trainer.model) else ""
    detail = "no two traces have the same structure"
    for first, second in _PAIRS:
        try:
            logs = [
                trace_step(
                    trainer.model,
                    trainer.optimizers,
                    trainer.load_repeated(size),
                    trainer.step,
                    fake=fake,
                )
                for size in (first, second)
            ]
        except (Exception, SystemExit) as error:
            detail = told(error)
            continue
        lines = lines_of(logs[0], first, logs[1], second, smallest)
        if lines is not None:
            return Traced(lines=lines, detail=left_out)
    return Traced(lines=(), detail=detail)

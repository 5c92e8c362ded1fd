"""Traces the memory of a training step, inside the worker: on real tensors on a CPU, else on fake ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from autobatch.devices.base import Backend
from autobatch.engines.messages import Storages, Traced, TraceStorages
from autobatch.memory import cuda_rules
from autobatch.memory.batch_extrapolation import stretched
from autobatch.memory.storage_log import align, lines_of
from autobatch.memory.trace import Trace, trace_step
from autobatch.workload import compilation
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

# Pairs of sizes to trace, until both of one have the same structure. Sizes below 4 may take ways of their own
# (a batch that is split into parts, say), and large ones would cost real memory on a CPU.
_PAIRS = ((4, 8), (16, 32))
# Up to here a batch is loaded; beyond, a batch without data is made from these two.
_LOADED = (4, 8)


def run(trainer: Trainer, backend: Backend, *, without_data: bool = False) -> Traced:
    """The bytes alive at the peak at any size. Whatever goes wrong is said in place of lines."""
    fake = without_data or backend.torch_device != "cpu"
    tracer = Tracer(trainer, cuda=backend.kind == "cuda", fake=fake)
    # What there is to take at any size shows at a batch of none.
    smallest = 0.0 if without_data else 1.0
    left_out = "it was traced without its compilation" if compilation.is_compiled(trainer.model) else ""
    found = Storages(lifetimes=())
    for sizes in _PAIRS:
        found = tracer.between(*sizes)
        if found.lifetimes:
            return Traced(lines=lines_of(found.lifetimes, smallest), detail=left_out)
    return Traced(lines=(), detail=found.detail)


class Tracer:
    """Traces a trainer's step at one size after the other. The trainer is good for nothing else from then on.

    `cuda`: by CUDA's rules, which stay with this process.
    """

    def __init__(self, trainer: Trainer, *, cuda: bool, fake: bool, channels_last: bool = False) -> None:
        if cuda:
            cuda_rules.install()
        trainer.use_device("cpu")
        self._trainer = trainer
        self._fake = fake
        self._channels_last = channels_last
        self._traces: dict[int, Trace] = {}
        self._loaded: dict[int, Any] = {}

    @classmethod
    def of(cls, trainer: Trainer, asked: TraceStorages) -> Tracer:
        """One that traces as it was asked for."""
        trainer.materialize()
        return cls(trainer, cuda=asked.cuda, fake=asked.fake, channels_last=asked.channels_last)

    def between(self, first: int, second: int) -> Storages:
        """The storages of the step, from two sizes. Whatever goes wrong is said in their place."""
        try:
            one, other = self._trace(first), self._trace(second)
        except (Exception, SystemExit) as error:
            return Storages(lifetimes=(), detail=describe_error(error))
        lifetimes = align(one.events, first, other.events, second)
        return Storages(
            lifetimes=lifetimes or (),
            detail="" if lifetimes else f"the step at {second} has another structure than at {first}",
            alike=lifetimes is not None,
            guessed=max(one.guessed, other.guessed),
            traits=tuple(_traits(self._trainer.model, one, channels_last=self._channels_last)),
        )

    def _trace(self, size: int) -> Trace:
        if size not in self._traces:
            self._traces[size] = trace_step(
                self._trainer.model,
                self._trainer.optimizers,
                self._batch(size),
                self._trainer.step,
                fake=self._fake,
                channels_last=self._channels_last,
            )
        return self._traces[size]

    def _batch(self, size: int) -> Any:
        """A batch for one trace: without data where that makes no difference, and it might be large."""
        if not self._fake or size <= max(_LOADED):
            return self._trainer.load_repeated(size)
        for one in _LOADED:
            if one not in self._loaded:
                self._loaded[one] = self._trainer.load_repeated(one)
        first, second = _LOADED
        return stretched(self._loaded[first], first, self._loaded[second], second, size)


def _traits(model: nn.Module, trace: Trace, *, channels_last: bool) -> Iterator[str]:
    """What of a step is known to take more on a device than a trace sees."""
    modules = list(model.modules())
    if any(isinstance(one, nn.RNNBase) for one in modules):
        yield "rnn"
    if channels_last and any(isinstance(one, nn.GroupNorm) for one in modules):
        yield "group_norm"
    if compilation.is_compiled(model):
        yield "compiled"
    if trace.foreign:
        yield "foreign"

"""Traces the memory of a training step, inside the worker: on real tensors on a CPU, else on fake ones.

The modules that need private APIs of torch are imported by the first trace. Where a torch lacks one of them,
that trace fails and says so, and the search goes on without a forecast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from autobatch.devices.base import Backend
from autobatch.engines.trace_messages import Storages, Traced, TraceStorages
from autobatch.memory.storage_log import align, lines_of
from autobatch.workload import compilation
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error

if TYPE_CHECKING:
    from autobatch.memory.storage_recorder import Trace

# Pairs of sizes to trace, until a pair has the same structure at both. Sizes below 4 may take other paths,
# such as a batch that is split into parts, and large sizes would cost real memory on a CPU.
_PAIRS = ((4, 8), (16, 32))
# Batches of these sizes are loaded. A larger batch, without data, is extrapolated from them.
_LOADED = (4, 8)


def run(trainer: Trainer, backend: Backend, *, without_data: bool = False) -> Traced:
    """The bytes alive at the peak at any size. A failure is the reply's `detail`, without lines."""
    fake = without_data or backend.torch_device != "cpu"
    tracer = Tracer(trainer, cuda=backend.kind == "cuda", fake=fake)
    # A batch of none shows the memory that every size takes.
    smallest = 0.0 if without_data else 1.0
    left_out = "it was traced without its compilation" if compilation.is_compiled(trainer.model) else ""
    storages = Storages(lifetimes=())
    for sizes in _PAIRS:
        storages = tracer.between(*sizes)
        if storages.lifetimes:
            return Traced(lines=lines_of(storages.lifetimes, smallest), detail=left_out)
    return Traced(lines=(), detail=storages.detail)


class Tracer:
    """Traces a trainer's step at one size after the other. The trainer can't be used for training after.

    `cuda`: by CUDA's rules, which hold for this process from then on.
    """

    def __init__(self, trainer: Trainer, *, cuda: bool, fake: bool, channels_last: bool = False) -> None:
        trainer.use_device("cpu")
        self._trainer = trainer
        self._cuda = cuda
        self._fake = fake
        self._channels_last = channels_last
        self._traces: dict[int, Trace] = {}
        self._loaded: dict[int, Any] = {}

    @classmethod
    def of(cls, trainer: Trainer, asked: TraceStorages) -> Tracer:
        """A tracer with the settings of a command."""
        trainer.materialize()
        return cls(trainer, cuda=asked.cuda, fake=asked.fake, channels_last=asked.channels_last)

    def between(self, first: int, second: int) -> Storages:
        """The storages of the step at any size, from traces at two. A failure is the `detail`."""
        try:
            trace, other = self._trace(first), self._trace(second)
        except (Exception, SystemExit) as error:
            return Storages(lifetimes=(), detail=describe_error(error))
        lifetimes = align(trace.events, first, other.events, second)
        return Storages(
            lifetimes=lifetimes or (),
            detail="" if lifetimes else f"the step at {second} has another structure than at {first}",
            alike=lifetimes is not None,
            guessed=max(trace.guessed, other.guessed),
            traits=tuple(_traits(self._trainer.model, trace, channels_last=self._channels_last)),
        )

    def _trace(self, size: int) -> Trace:
        from autobatch.memory.trace import trace_step

        if self._cuda:
            from autobatch.memory import cuda_rules

            cuda_rules.install()
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
        """A batch for a trace, without data where it may be large and data make no difference."""
        if not self._fake or size <= max(_LOADED):
            return self._trainer.load_repeated(size)
        from autobatch.memory.batch_extrapolation import extrapolate_batch

        for loaded in _LOADED:
            if loaded not in self._loaded:
                self._loaded[loaded] = self._trainer.load_repeated(loaded)
        first, second = _LOADED
        return extrapolate_batch(self._loaded[first], first, self._loaded[second], second, size)


def _traits(model: nn.Module, trace: Trace, *, channels_last: bool) -> Iterator[str]:
    """Traits of a step that take more memory on a device than a trace sees."""
    modules = list(model.modules())
    if any(isinstance(module, nn.RNNBase) for module in modules):
        yield "rnn"
    if channels_last and any(isinstance(module, nn.GroupNorm) for module in modules):
        yield "group_norm"
    if compilation.is_compiled(model):
        yield "compiled"
    if trace.foreign:
        yield "foreign"

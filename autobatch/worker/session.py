"""One session of a worker: opens the workload on a device, and answers the parent's commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import torch

from autobatch.devices import open_all, open_backend
from autobatch.devices.base import Backend
from autobatch.engines import messages, trace_messages
from autobatch.records.errors import AutobatchError, TargetError
from autobatch.worker import (
    gradient_noise,
    loader_timing,
    loss_kind,
    memory_trace,
    session_setup,
    short_training,
)
from autobatch.worker.first_state import FirstState
from autobatch.worker.step_timing import Measurer
from autobatch.worker.trial_failures import failed
from autobatch.workload import compilation, fingerprint
from autobatch.workload.file_watch import FileWatch
from autobatch.workload.lightning.completion import completed
from autobatch.workload.lightning.detection import frameworks_in_use
from autobatch.workload.model_size import model_bytes
from autobatch.workload.parts import Parts
from autobatch.workload.process_group import Ranks
from autobatch.workload.samples import Samples
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error, location_of

# Each rank draws samples of its own, as in training: the distance of their seeds.
_SEEDS_APART = 1 << 24
# Commands whose work is timed. A phase message would cost more than some steps take.
_SILENT = (
    messages.TimeRound,
    trace_messages.TraceMemory,
    trace_messages.TraceStorages,
    messages.MeasureLossKind,
    messages.MeasureNoise,
    messages.Train,
)


class Session:
    """The state of one worker process: the device, the trainer, and the measurer over both."""

    _trainer: Trainer
    _backend: Backend
    _measurer: Measurer
    _first_state: FirstState
    _opened: tuple[Parts, Samples, Samples | None]

    def __init__(self, send: Callable[[messages.Reply], None]) -> None:
        """`send` passes a message to the parent while a command is being answered."""
        self._send = send
        self._silent = False
        self._tracer: memory_trace.Tracer | None = None
        self._files: FileWatch | None = None

    def answer(self, command: messages.Command) -> messages.Reply:
        """The reply to one command. Every failure is a reply too."""
        try:
            return self._answer(command)
        except AutobatchError as error:
            return messages.Refused.of(error)
        # A step may raise no Exception, such as asyncio's CancelledError.
        except BaseException as error:
            if isinstance(command, (messages.TryOut, messages.TimeRound)):
                return failed(command.batch_size, error, self._trainer.phase, 0)
            return messages.Refused.of(self._unexpected(command, error))

    def _unexpected(self, command: messages.Command, error: BaseException) -> TargetError:
        """The error for a failure that neither the start nor a trial has caught."""
        facts = (describe_error(error), *location_of(error))
        if isinstance(command, (messages.Start, messages.ListDevices)):
            return TargetError("the worker can't start the measurements", code="start_fails", facts=facts)
        return TargetError(
            f"the worker can't go on after an error in the {self._trainer.phase} phase",
            code="step_fails",
            facts=facts,
            hint="run one training step of your own to see the whole error",
        )

    def _answer(self, command: messages.Command) -> messages.Reply:
        self._silent = isinstance(command, _SILENT)
        match command:
            case messages.Start():
                return self._open(command)
            case messages.ListDevices():
                return messages.Devices(devices=tuple(backend.describe() for backend in open_all()))
            case messages.TakeFingerprint():
                return self._take_fingerprint()
            case messages.TryOut():
                tried = self._measurer.try_out(command.batch_size, command.seconds, command.steps)
                return msgspec.structs.replace(tried, restartable=self._can_restart)
            case messages.TimeRound():
                return self._measurer.time_round(command.batch_size, command.seconds, alone=command.alone)
            case trace_messages.TraceMemory():
                return memory_trace.run(self._trainer, self._backend, without_data=command.without_data)
            case trace_messages.TraceStorages():
                self._tracer = self._tracer or memory_trace.Tracer.of(self._trainer, command)
                return self._tracer.between(*command.sizes)
            case messages.MeasureLossKind():
                return loss_kind.run(self._trainer, self._first_state.snapshot(), command)
            case messages.MeasureNoise():
                if not self._trainer.why_no_check:
                    start = self._first_state.snapshot()
                    if self._first_state.is_kept:
                        start.restore()
                self._drop_state_between_sizes()
                return gradient_noise.run(self._trainer, command)
            case messages.Train():
                start = self._first_state.snapshot()
                self._drop_state_between_sizes()
                return short_training.run(self._trainer, start, command)
            case messages.TimeLoader():
                return loader_timing.run(self._trainer, command)

    @property
    def _can_restart(self) -> bool:
        """A `step` of the user may keep state that nobody else knows of, and other ranks may go on."""
        first_state = self._first_state
        return first_state.is_whole and not first_state.is_shared and self._opened[0].step is None

    def _take_fingerprint(self) -> messages.Fingerprint:
        modules: set[str] = set()
        with self._files or contextlib.nullcontext():
            parts = fingerprint.take(*self._opened, self._trainer, modules)
        return messages.Fingerprint(
            parts=parts, files=None if self._files is None else self._files.records(modules)
        )

    def _drop_state_between_sizes(self) -> None:
        """The check trains and evaluates at several sizes in turns; a hidden state is of one of them."""
        self._first_state.keep()
        self._trainer.on_new_size = self._first_state.drop_tensors

    def _open(self, command: messages.Start) -> messages.Opened:
        session_setup.seed_everything(command.seed)
        recipe = command.recipe
        device, ranks = session_setup.join_ranks(command)
        if command.watches_files:
            # The file of the caller's objects has another name each time.
            self._files = FileWatch(ignored=recipe.payload)
        with self._files or contextlib.nullcontext():
            parts, samples, val_samples = self._load(command, ranks)
        self._backend = backend = open_backend(device)
        # The file may have switched gradients off. That shall fail in its training step, not here.
        with torch.enable_grad():
            backend.warm_up()
        on_host = parts.ready_model if backend.torch_device == "cpu" else None
        held_bytes = 0 if on_host is None else model_bytes(on_host)
        backend.limit_memory(command.memory_bytes, held_bytes, session_setup.memory_share(command, backend))
        self._on_phase("build")
        with (
            session_setup.target_errors("build", recipe.target, ranks.count),
            self._files or contextlib.nullcontext(),
        ):
            self._trainer = Trainer(
                parts,
                samples,
                val_samples,
                backend.torch_device,
                self._on_phase,
                ranks,
                accumulates=command.accumulates or parts.accumulation_steps > 1,
            )
        self._opened = parts, samples, val_samples
        self._first_state = FirstState(self._trainer)
        seed = command.seed + _SEEDS_APART * ranks.rank
        self._measurer = Measurer(backend, self._trainer, seed, self._first_state)
        return messages.Opened(
            device=backend.describe(),
            workload=self._trainer.describe(),
            torch=str(torch.__version__),
            watch_bytes=getattr(backend, "watch_bytes", None),
            scan=samples.scanned,
            frameworks=(*frameworks_in_use(), *self._trainer.frameworks),
            batch_size_source=parts.batch_size_source,
        )

    def _load(self, command: messages.Start, ranks: Ranks) -> tuple[Parts, Samples, Samples | None]:
        """(parts, training samples, validation samples), with the user's errors as errors of the target."""
        recipe = command.recipe
        self._on_phase("import")
        with session_setup.target_errors("import", recipe.target, ranks.count):
            parts = session_setup.load_recipe(recipe)
        self._on_phase("setup")
        with session_setup.target_errors("setup", recipe.target, ranks.count):
            parts = session_setup.with_options(completed(parts), recipe)
        self._on_phase("load")
        with session_setup.target_errors("load", recipe.target, ranks.count):
            return parts, *session_setup.open_both_samples(parts, command)

    def _on_phase(self, name: str) -> None:
        if not self._silent or name in (compilation.BEGINS, compilation.ENDS):
            self._send(messages.Phase(name=name))

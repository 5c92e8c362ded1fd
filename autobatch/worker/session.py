"""One session of a worker: opens the workload on a device, and answers what the parent asks."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy
import torch

from autobatch.devices import open_all, open_backend
from autobatch.devices.base import Backend
from autobatch.devices.oom import Cause, classify
from autobatch.engines import messages, worker_failures
from autobatch.records.errors import AutobatchError, DeviceError, TargetError, UsageError
from autobatch.records.limits import Precision
from autobatch.worker import gradient_noise, loader_timing, memory_trace, short_training
from autobatch.worker.step_timing import Measurer
from autobatch.workload import compilation, fingerprint, optimizers, serialization
from autobatch.workload.dataset import Samples, SyntheticSamples, open_samples
from autobatch.workload.lightning.completion import completed
from autobatch.workload.lightning.detection import frameworks_in_use
from autobatch.workload.model_size import model_bytes
from autobatch.workload.parts import Parts
from autobatch.workload.process_group import Ranks, RanksTogether
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.target import load_parts
from autobatch.workload.trainer import Trainer
from autobatch.workload.user_errors import describe_error, exit_error, location_of

_DURING = {
    "import": "it was imported",
    "setup": "its module and its data were set up",
    "load": "its data set was opened",
    "build": "its model and optimizer were made",
}
# Ranks draw other samples each, as in training.
_SEEDS_APART = 1 << 24
_LOOKED_FOR = "looked for `build_dataset()`, `dataset`, `train_dataset`, `train_dataloader`, `datamodule`"


class Session:
    """What one process of the worker holds: the device, the trainer, and the measurer over both."""

    _trainer: Trainer
    _backend: Backend
    _measurer: Measurer
    _opened: tuple[Parts, Samples, Samples | None]

    def __init__(self, tell: Callable[[messages.Reply], None]) -> None:
        self._tell = tell
        self._in_round = False
        self._ranks = Ranks()
        self._start: Snapshot | None = None
        self._tracer: memory_trace.Tracer | None = None

    def answer(self, command: messages.Command) -> messages.Reply:
        """The reply to one command. Whatever goes wrong is a reply too."""
        try:
            return self._answer(command)
        except AutobatchError as error:
            return messages.Refused.of(error)
        # What a step raises may be no Exception, such as asyncio's CancelledError.
        except BaseException as error:
            return messages.Refused.of(self._stopped(command, error))

    def _stopped(self, command: messages.Command, error: BaseException) -> TargetError:
        """The error for what neither the start nor a trial has caught."""
        if isinstance(command, (messages.Start, messages.ListDevices)):
            return TargetError(
                "the worker can't start the measurements",
                code="start_fails",
                facts=(describe_error(error), *location_of(error)),
            )
        return TargetError(
            f"the worker can't go on after an error in the {self._trainer.phase} phase",
            code="step_fails",
            facts=(describe_error(error), *location_of(error)),
            hint="run one training step of your own to see the whole error",
        )

    def _answer(self, command: messages.Command) -> messages.Reply:
        if isinstance(command, messages.Start):
            return self._open(command)
        if isinstance(command, messages.ListDevices):
            return messages.Devices(devices=tuple(backend.describe() for backend in open_all()))
        if isinstance(command, messages.TakeFingerprint):
            return messages.Fingerprint(parts=fingerprint.take(*self._opened, self._trainer))
        self._in_round = isinstance(
            command,
            (
                messages.TimeRound,
                messages.TraceMemory,
                messages.TraceStorages,
                messages.MeasureNoise,
                messages.Train,
            ),
        )
        if isinstance(command, messages.TryOut):
            return self._measurer.try_out(command.batch_size, command.seconds, command.steps)
        if isinstance(command, messages.TraceMemory):
            return memory_trace.run(self._trainer, self._backend, without_data=command.without_data)
        if isinstance(command, messages.TraceStorages):
            self._tracer = self._tracer or memory_trace.Tracer.of(self._trainer, command)
            return self._tracer.between(*command.sizes)
        if isinstance(command, messages.MeasureNoise):
            if not self._trainer.why_no_check:
                self._at_start()
            return gradient_noise.run(self._trainer, command)
        if isinstance(command, messages.Train):
            return short_training.run(self._trainer, self._at_start(), command)
        if isinstance(command, messages.TimeLoader):
            return loader_timing.run(self._trainer, command)
        return self._measurer.time_round(command.batch_size, command.seconds, alone=command.alone)

    def _at_start(self) -> Snapshot:
        """What the trainer was like before the session's first training."""
        if self._start is None:
            try:
                self._trainer.materialize()
                self._start = Snapshot(self._trainer)
            except Exception as error:
                raise TargetError(
                    f"the model can't be kept to start again from: {describe_error(error)}",
                    code="no_snapshot",
                ) from None
        return self._start

    def _open(self, command: messages.Start) -> messages.Opened:
        _seed_everything(command.seed)
        recipe = command.recipe
        device, ranks = _join(command)
        self._ranks = ranks
        parts = self._guard("import", lambda: _load_parts(recipe), recipe)
        parts = self._guard("setup", lambda: _as_asked(completed(parts), recipe), recipe)
        samples, val_samples = self._guard("load", lambda: _open_samples(parts, command), recipe)
        backend = open_backend(device)
        # The file may have switched gradients off: its own training step shall be what fails of it.
        with torch.enable_grad():
            backend.warm_up()
        on_host = parts.ready_model if backend.torch_device == "cpu" else None
        held_bytes = 0 if on_host is None else model_bytes(on_host)
        backend.limit_memory(command.memory_bytes, held_bytes, _share_of_memory(command, backend))
        trainer = self._guard(
            "build",
            lambda: Trainer(
                parts,
                samples,
                val_samples,
                backend.torch_device,
                self._on_phase,
                ranks,
                accumulates=command.accumulates,
            ),
            recipe,
        )
        self._opened = parts, samples, val_samples
        self._trainer = trainer
        self._backend = backend
        self._measurer = Measurer(backend, trainer, command.seed + _SEEDS_APART * ranks.rank)
        return messages.Opened(
            device=backend.describe(),
            workload=trainer.describe(),
            torch=str(torch.__version__),
            watch_bytes=getattr(backend, "watch_bytes", None),
            scan=samples.found,
            frameworks=(*frameworks_in_use(), *trainer.frameworks),
        )

    def _on_phase(self, name: str) -> None:
        # Rounds are timed: there, telling would cost more than some steps take.
        if not self._in_round or name in (compilation.BEGINS, compilation.ENDS):
            self._tell(messages.Phase(name=name))

    def _guard(self, phase: str, work: Callable[[], Any], recipe: messages.Recipe) -> Any:
        """The result of `work`, its failures told as errors of the target."""
        self._tell(messages.Phase(name=phase))
        name = f"`{recipe.target}`" if recipe.target else "the model"
        try:
            return work()
        except AutobatchError:
            raise
        except SystemExit as stopped:
            raise exit_error(name, _DURING[phase], stopped) from None
        # What a file raises may be no Exception: `pytest.skip` and its like derive from BaseException.
        except BaseException as error:
            cause = classify(error)
            if cause is Cause.PEER and self._ranks.count > 1:
                raise worker_failures.rank_failed(describe_error(error)) from None
            if cause is Cause.OUT_OF_MEMORY:
                raise DeviceError(
                    "the model alone does not fit into the memory limit",
                    code="nothing_fits",
                    facts=(describe_error(error),),
                    hint="raise `--memory-limit`, stop other processes on the device, or use a smaller model",
                ) from None
            raise TargetError(
                f"{name} raised an error while {_DURING[phase]}",
                code="target_raises",
                facts=(describe_error(error), *location_of(error)),
            ) from None


def _join(command: messages.Start) -> tuple[str | None, Ranks]:
    """(device, ranks) of a session. Before any code of the user's: a file that looks shall find its group."""
    group = command.group
    if group is None:
        return command.device, Ranks()
    device = open_backend(command.device).kind if command.device is None else command.device
    if device not in ("cpu", "mps") and ":" not in device:
        device = f"{device}:{group.local_rank % max(1, torch.accelerator.device_count())}"
    try:
        ranks = RanksTogether(
            group.rank, group.ranks, device, group.host, group.port, group.prefix, group.timeout_seconds
        )
    except Exception as error:
        raise worker_failures.rank_failed(describe_error(error)) from None
    return device, ranks


def _share_of_memory(command: messages.Start, backend: Backend) -> float:
    """The share of the limit: ranks of one machine share its main memory, unless a limit is given."""
    shared = command.group is not None and command.memory_bytes is None and backend.kind == "cpu"
    return command.memory_fraction / (command.group.local_ranks if shared and command.group else 1)


def _load_parts(recipe: messages.Recipe) -> Parts:
    sys.path[:] = [*recipe.sys_path, *(one for one in sys.path if one not in recipe.sys_path)]
    parts = serialization.unpacked_parts(recipe.payload) if recipe.payload else load_parts(recipe.target)
    return parts if recipe.epochs is None else replace(parts, epochs=recipe.epochs)


def _as_asked(parts: Parts, recipe: messages.Recipe) -> Parts:
    """The parts with the precision and the optimizer that were asked for."""
    parts = _in_precision(parts, recipe)
    if recipe.optimizer is None:
        return parts
    return replace(parts, optimizer=optimizers.NAMED[recipe.optimizer], make_optimizers=None)


def _in_precision(parts: Parts, recipe: messages.Recipe) -> Parts:
    """The parts in the precision that was asked for; a loop that has its own can't be asked."""
    if parts.step is None:
        return parts if recipe.precision is None else replace(parts, precision=recipe.precision)
    if recipe.precision is not None:
        raise own_precision(parts.name)
    return replace(parts, precision=Precision.FP32)


def own_precision(name: str) -> UsageError:
    """The error for a precision asked of a loop that has its own."""
    return UsageError(
        "`--precision` can't be used with a `step` of your own",
        code="own_precision",
        facts=(f"the loop of `{name}` runs forward, backward and optimizers by itself",),
        hint="put `with torch.autocast(...)` into that `step`, and leave the option out",
    )


def _open_samples(parts: Parts, command: messages.Start) -> tuple[Samples, Samples | None]:
    """(training samples, looked at for their sizes; validation samples)."""
    recipe = command.recipe
    if recipe.input_shape is not None:
        return SyntheticSamples(recipe.input_shape, recipe.classes), None
    if parts.dataset is None:
        raise TargetError(
            f"`{recipe.target}` has no data set" if recipe.target else "no data set was given",
            code="no_dataset",
            facts=(_LOOKED_FOR,) if recipe.target else (),
            hint="add `dataset = ...` to the file, or give `--input-shape 3,32,32` for memory and speed only"
            if recipe.target
            else "give it as the second argument",
        )
    val_samples = (
        None
        if parts.val_dataset is None
        else open_samples(parts.val_dataset, parts.val_collate_fn or parts.collate_fn)
    )
    samples = open_samples(parts.dataset, parts.collate_fn)
    if command.scan is not None:
        samples.found = command.scan
    else:
        samples.scan(command.seed)
    return samples, val_samples


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)

"""The engine of a single worker: sessions come and go, and the death of a session is data."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from autobatch.engines import messages, trace_messages, worker_failures
from autobatch.engines.base import Opened
from autobatch.engines.worker_errors import WorkerEndedError, WorkerStoppedError
from autobatch.engines.worker_process import WorkerProcess, interrupts_held, start_worker
from autobatch.records.check import LossKind
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.records.workload import SampleSizes, Workload
from autobatch.workload import compilation

# A fingerprint that takes longer is given up: to measure again costs no more.
_FINGERPRINT_SECONDS = 30.0

Answer = TypeVar("Answer", bound=messages.Reply)


class LocalEngine:
    """Runs trials in a worker process; a session that failed is replaced by a fresh one."""

    def __init__(
        self,
        recipe: messages.Recipe,
        limits: Limits,
        device: str | None,
        environment: dict[str, str],
        on_output: Callable[[str], None],
    ) -> None:
        self._start = messages.Start(
            recipe=recipe,
            device=device,
            memory_bytes=limits.memory_bytes,
            memory_fraction=limits.memory_fraction,
            seed=limits.seed,
            frameworks=recipe.frameworks,
            accumulates=limits.global_batch is not None,
            watches_files=True,
        )
        self._timeout_seconds = limits.trial_timeout_seconds
        self._start_seconds = worker_failures.START_TRIALS * limits.trial_timeout_seconds
        self._environment = environment
        self._on_output = on_output
        self._worker: WorkerProcess | None = None
        self._used = False
        self._restartable = False
        self._opened: Opened | None = None
        self._first: Workload | None = None
        self._stopped: Callable[[], bool] = lambda: False
        self._made_at = time.monotonic()
        self.compile_seconds = 0.0
        self.start_seconds = 0.0
        self.sizes: SampleSizes | None = None
        self.trainings_at_once = 1
        self.ranks = 1
        self.local_ranks = 1

    def open(self) -> Opened:
        """Starts a session unless there is one.

        Raises the user's errors, and TargetError where the process died on the way, or the model is another
        than the first time.
        """
        if self._opened is not None and self._worker is not None and self._worker.has_session:
            return self._opened
        begin = time.monotonic()
        if self._worker is None or not self._worker.alive:
            self._replace_worker()
        reply = self._begin(self._start)
        assert self._worker is not None
        # Where sessions fork, the next one need not wait for the imports of their worker.
        begin = self._worker.session_begin if sys.platform == "linux" else begin
        self.start_seconds = time.monotonic() - begin
        assert isinstance(reply, messages.Opened)
        self._worker.watch_bytes = reply.watch_bytes
        self._used = self._restartable = False
        self._first = self._first or reply.workload
        if worker_failures.identity(reply.workload) != worker_failures.identity(self._first):
            self._worker.end_session()
            raise worker_failures.changed(self._start.recipe, self._first, reply.workload)
        self._start = msgspec.structs.replace(
            self._start, scan=reply.scan, frameworks=reply.frameworks, watches_files=False
        )
        self.sizes = self.sizes or reply.workload.sizes
        self._opened = Opened(
            device=reply.device,
            workload=reply.workload,
            torch=reply.torch,
            batch_size_source=reply.batch_size_source,
        )
        return self._opened

    @property
    def busy_seconds(self) -> float:
        """Wall time since the engine was made, without the time that torch.compile took."""
        return time.monotonic() - self._made_at - self.compile_seconds

    def take_fingerprint(self) -> messages.Fingerprint:
        """The digests of what the current session trains; without parts where the worker fails or dies."""
        assert self._worker is not None
        try:
            reply = self._worker.ask(
                messages.TakeFingerprint(), min(self._timeout_seconds, _FINGERPRINT_SECONDS)
            )
        except WorkerEndedError as end:
            return messages.Fingerprint(parts={}, detail=str(end))
        if isinstance(reply, messages.Refused):
            return messages.Fingerprint(parts={}, detail="; ".join((reply.message, *reply.facts)))
        assert isinstance(reply, messages.Fingerprint)
        return reply

    def devices(self) -> tuple[Device, ...]:
        """Every device that a worker sees."""
        self._replace_worker()
        reply = self._begin(messages.ListDevices())
        assert isinstance(reply, messages.Devices)
        return reply.devices

    def _begin(self, command: messages.Start | messages.ListDevices) -> messages.Reply:
        """The first reply of a new session. Raises AutobatchError where it does not come up."""
        assert self._worker is not None
        try:
            reply = self._worker.ask(command, self._start_seconds, self._stopped)
        except WorkerEndedError as end:
            raise worker_failures.start_failed(self._start.recipe, end, self._start_seconds) from None
        if isinstance(reply, messages.Refused):
            self._worker.end_session()
            raise reply.rebuilt()
        return reply

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> messages.Tried:
        """A try of one size; the death of the worker is its outcome. `sizes` has that of the only rank."""
        size = sizes[0] if sizes else batch_size
        reply = self._measure(messages.TryOut(batch_size=size, seconds=seconds, steps=steps))
        assert isinstance(reply, messages.Tried)
        self.sizes = _larger(self.sizes, reply.sizes)
        self._restartable = reply.restartable
        return reply

    def time_round(
        self, batch_size: int, seconds: float, *, alone: bool = False, sizes: tuple[int, ...] = ()
    ) -> messages.Timed | messages.Tried:
        """One timing round of a size that passed; `alone` without the communication of ranks."""
        size = sizes[0] if sizes else batch_size
        return self._measure(messages.TimeRound(batch_size=size, seconds=seconds, alone=alone))

    def time_each(self, batch_size: int, seconds: float) -> list[float]:
        """The step seconds of the only rank. Raises AutobatchError where its round fails."""
        reply = self.time_round(batch_size, seconds, alone=True)
        if isinstance(reply, messages.Tried):
            raise AutobatchError(reply.detail, code="step_fails")
        return [reply.step_seconds]

    def join(self, group: messages.Group | None, stopped: Callable[[], bool] = lambda: False) -> None:
        """Lets the next sessions train with a group, in place of the current one; None is a session alone.

        As soon as `stopped` is true, the work of a session ends: another rank has failed.
        """
        self.renew()
        self._start = msgspec.structs.replace(self._start, group=group)
        self._stopped = stopped

    @property
    def fresh(self) -> bool:
        """True while no trial has run in the present session."""
        return self._worker is None or not self._worker.has_session or not self._used

    def renew(self, *, worker: bool = False) -> None:
        """Lets the next trial run in a fresh process: a new session, or a `worker` started anew."""
        if self._worker is None:
            return
        if worker:
            self._worker.close()
            self._worker = None
        else:
            self._worker.end_session()

    def close(self) -> None:
        """Ends the worker. Nothing of it is left behind."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        compilation.remove_cache_folder(self._environment)

    def _replace_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
        # A worker that Ctrl-C kept from being recorded here would never be ended.
        with interrupts_held():
            self._worker = self._new_worker()

    def _new_worker(self) -> WorkerProcess:
        return start_worker(self._environment, self._on_output)

    def trace_memory(self, *, without_data: bool = False) -> trace_messages.Traced:
        """The memory of a step at any size; without lines where the step can't be traced."""
        command = trace_messages.TraceMemory(without_data=without_data)
        try:
            return self._ask_in_time(command, 0.0, trace_messages.Traced)
        except AutobatchError as error:
            return trace_messages.Traced(lines=(), detail=error.message)
        finally:
            self.renew()

    def trace_storages(self, command: trace_messages.TraceStorages) -> trace_messages.Storages:
        """The storages of a step at any size, in the current session, or the reason why there are none."""
        try:
            return self._ask_in_time(command, 0.0, trace_messages.Storages)
        except AutobatchError as error:
            return trace_messages.Storages(lifetimes=(), detail=error.message)

    def measure_loss_kind(self, command: messages.MeasureLossKind) -> messages.LossForm:
        """The kind of loss at the first state; unknown where the worker died. A fresh session stays fresh."""
        try:
            return self._ask_at_first_state(command, messages.LossForm)
        except AutobatchError as error:
            return messages.LossForm(kind=LossKind.UNKNOWN, detail=error.message)

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        """The gradient's noise from the first state on. Raises AutobatchError where the worker died."""
        noise = self._ask_at_first_state(command, messages.Noise)
        self._used = True
        return noise

    def _ask_at_first_state(
        self, command: messages.MeasureLossKind | messages.MeasureNoise, kind: type[Answer]
    ) -> Answer:
        """The reply of the current session, if it can return to its first state, or of a fresh one.

        Where the current session has no result, its trials may be the cause. A fresh session decides.
        """
        if not self.fresh and self._restartable:
            with contextlib.suppress(AutobatchError):
                reply = self._ask_in_time(command, command.seconds, kind)
                if not worker_failures.is_without_result(reply):
                    return reply
        if not self.fresh:
            self.renew()
        return self._ask_in_time(command, command.seconds, kind)

    def train(self, command: messages.Train) -> messages.Trained:
        """A short training in the current session, or a fresh one; its failure is its outcome."""
        try:
            return self._ask_in_time(command, command.seconds, messages.Trained)
        except AutobatchError as error:
            return worker_failures.of_training(
                command, error.message, by_peer=error.code == worker_failures.RANK_FAILED
            )

    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]:
        """The same for several, in their order. Raises AutobatchError where they can't be run at all."""
        return tuple(map(self.train, commands))

    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded:
        """Seconds from batch to batch of a DataLoader; without any, the detail is the reason."""
        try:
            reply = self._ask_in_time(command, command.seconds, messages.Loaded)
        except AutobatchError as error:
            return messages.Loaded(batch_seconds=None, detail=error.message)
        assert isinstance(reply, messages.Loaded)
        if reply.batch_seconds is None and command.workers and self._worker is not None:
            # The rest of its workers ends with the session.
            self._worker.end_session()
        return reply

    def _ask_in_time(self, command: messages.Command, seconds: float, kind: type[Answer]) -> Answer:
        """The reply to a command of `seconds`, which may take the time of a trial longer."""
        if self._worker is None or not self._worker.has_session:
            self.open()
        try:
            reply = self._ask(command, seconds + self._timeout_seconds)
        except WorkerEndedError as end:
            stopped = isinstance(end, WorkerStoppedError)
            raise AutobatchError(
                str(end), code=worker_failures.RANK_FAILED if stopped else "worker_died"
            ) from None
        if isinstance(reply, messages.Refused):
            raise reply.rebuilt()
        assert isinstance(reply, kind)
        return reply

    def _measure(self, command: messages.TryOut | messages.TimeRound) -> messages.Tried | messages.Timed:
        if self._worker is None or not self._worker.has_session:
            self.open()
        self._used = True
        try:
            reply = self._ask(command, self._timeout_seconds)
        except WorkerEndedError as end:
            return worker_failures.of_trial(command, end, self._timeout_seconds)
        if isinstance(reply, messages.Refused):
            raise reply.rebuilt()
        assert isinstance(reply, (messages.Tried, messages.Timed))
        if isinstance(reply, messages.Tried) and reply.outcome is not Outcome.OK and self._worker is not None:
            # A process that ran out of memory keeps a fragmented heap and would understate the next size.
            self._worker.end_session()
        return reply

    def _ask(self, command: messages.Command, seconds: float) -> messages.Reply:
        """The reply of the current session; counts its time to compile. Raises WorkerEndedError."""
        worker = self._worker
        assert worker is not None
        compiled_before = worker.compile_seconds
        try:
            return worker.ask(command, seconds, self._stopped)
        finally:
            self.compile_seconds += worker.compile_seconds - compiled_before


def _larger(sizes: SampleSizes | None, new: SampleSizes | None) -> SampleSizes | None:
    """The sizes of more samples: each session reads a stream from its beginning."""
    if sizes is None or new is None:
        return sizes or new
    return new if new.scanned >= sizes.scanned else sizes

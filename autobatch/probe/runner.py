"""The parent's side of the measurements: sessions come and go, trials are what stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from autobatch.errors import AutobatchError, TargetError
from autobatch.probe import wire
from autobatch.probe.oom import Cause
from autobatch.probe.process import (
    START_TIMEOUT_SECONDS,
    WorkerDiedError,
    WorkerHungError,
    WorkerProcess,
    WorkerTookTooMuchError,
    interrupts_held,
    signal_name,
)
from autobatch.records import Device, Limits, Outcome, SampleSizes, Training, Workload

_OUT_OF_HOST_MEMORY = -9


@dataclass(frozen=True, slots=True)
class Opened:
    """What a session found: the device, the workload, and the torch that it runs on."""

    device: Device
    workload: Workload
    torch: str


class Engine(Protocol):
    """Where trials run: a worker process, or a simulated device in the tests.

    `busy_seconds` is the time spent in measurements, the start of sessions excepted. `sizes` is what is
    known of the samples by now.
    """

    busy_seconds: float
    sizes: SampleSizes | None

    def open(self) -> Opened: ...
    def try_out(self, batch_size: int, seconds: float, steps: int) -> wire.Tried: ...
    def time_round(self, batch_size: int, seconds: float) -> wire.Timed | wire.Tried: ...
    def measure_noise(self, command: wire.MeasureNoise) -> wire.Noise: ...
    def train(self, command: wire.Train) -> wire.Trained: ...
    def time_loader(self, command: wire.TimeLoader) -> wire.Loaded: ...
    @property
    def fresh(self) -> bool: ...
    def renew(self, *, worker: bool = False) -> None: ...
    def close(self) -> None: ...


class WorkerEngine:
    """Runs trials in a worker process; a session that failed is replaced by a fresh one."""

    def __init__(
        self,
        recipe: wire.Recipe,
        limits: Limits,
        device: str | None,
        environment: dict[str, str],
        on_output: Callable[[str], None],
    ) -> None:
        self._start = wire.Start(
            recipe=recipe, device=device, memory_bytes=limits.memory_bytes, seed=limits.seed
        )
        self._timeout_seconds = limits.trial_timeout_seconds
        self._environment = environment
        self._on_output = on_output
        self._worker: WorkerProcess | None = None
        self._spare: WorkerProcess | None = None
        self._used = False
        self.busy_seconds = 0.0
        self.sizes: SampleSizes | None = None

    def open(self) -> Opened:
        """Starts a session if there is none, and tells what it found.

        Raises the user's errors, and TargetError where the process died on the way.
        """
        if self._worker is None or not self._worker.alive:
            self._replace_worker()
        assert self._worker is not None
        try:
            reply = self._worker.ask(self._start, START_TIMEOUT_SECONDS)
        except (WorkerDiedError, WorkerHungError, WorkerTookTooMuchError) as end:
            raise _start_failed(self._start.recipe, end) from None
        if isinstance(reply, wire.Refused):
            self._worker.end_session()
            raise reply.rebuilt()
        assert isinstance(reply, wire.Opened)
        self._worker.watch_bytes = reply.watch_bytes
        self._used = False
        self._start = msgspec.structs.replace(self._start, scan=reply.scan)
        self.sizes = self.sizes or reply.workload.sizes
        return Opened(device=reply.device, workload=reply.workload, torch=reply.torch)

    def devices(self) -> tuple[Device, ...]:
        """Every device that a worker sees."""
        self._replace_worker()
        assert self._worker is not None
        reply = self._worker.ask(wire.ListDevices(), START_TIMEOUT_SECONDS)
        if isinstance(reply, wire.Refused):
            raise reply.rebuilt()
        assert isinstance(reply, wire.Devices)
        return reply.devices

    def try_out(self, batch_size: int, seconds: float, steps: int) -> wire.Tried:
        """A try of one size; whatever happens to the worker is its outcome."""
        reply = self._measure(wire.TryOut(batch_size=batch_size, seconds=seconds, steps=steps))
        assert isinstance(reply, wire.Tried)
        self.sizes = _larger(self.sizes, reply.sizes)
        return reply

    def time_round(self, batch_size: int, seconds: float) -> wire.Timed | wire.Tried:
        """One timing round of a size that passed."""
        return self._measure(wire.TimeRound(batch_size=batch_size, seconds=seconds))

    @property
    def fresh(self) -> bool:
        """True while no trial has run in the present session."""
        return self._worker is None or not self._worker.has_session or not self._used

    def renew(self, *, worker: bool = False) -> None:
        """Lets the next trial run in a fresh process: a new session, or a `worker` started anew.

        A further worker starts behind it, since the next call most often asks for one too.
        """
        if not worker:
            if self._worker is not None:
                self._worker.end_session()
            return
        with interrupts_held():
            if self._worker is not None:
                self._worker.close()
            self._worker, self._spare = self._spare, self._new_worker()

    def close(self) -> None:
        """Ends the workers. Nothing of them is left behind."""
        for one in (self._worker, self._spare):
            if one is not None:
                one.close()
        self._worker = self._spare = None

    def _replace_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
        # A worker that Ctrl-C kept from being recorded here would never be ended.
        with interrupts_held():
            self._worker = self._new_worker()

    def _new_worker(self) -> WorkerProcess:
        return WorkerProcess(self._environment, self._on_output)

    def measure_noise(self, command: wire.MeasureNoise) -> wire.Noise:
        """The gradient's noise, in a fresh session. Raises AutobatchError where the worker died."""
        self.renew()
        reply = self._ask_in_time(command)
        assert isinstance(reply, wire.Noise)
        return reply

    def train(self, command: wire.Train) -> wire.Trained:
        """A short training in the present session, or a fresh one; its failure is its outcome."""
        try:
            reply = self._ask_in_time(command)
        except AutobatchError as error:
            return crashed(command, error.message)
        assert isinstance(reply, wire.Trained)
        return reply

    def time_loader(self, command: wire.TimeLoader) -> wire.Loaded:
        """Seconds from batch to batch of a DataLoader; what keeps it from giving any is the detail."""
        try:
            reply = self._ask_in_time(command)
        except AutobatchError as error:
            return wire.Loaded(batch_seconds=None, detail=error.message)
        assert isinstance(reply, wire.Loaded)
        if reply.batch_seconds is None and self._worker is not None:
            # What is left of its workers ends with the session.
            self._worker.end_session()
        return reply

    def _ask_in_time(self, command: wire.MeasureNoise | wire.Train | wire.TimeLoader) -> wire.Reply:
        if self._worker is None or not self._worker.has_session:
            self.open()
        assert self._worker is not None
        begin = time.monotonic()
        try:
            reply = self._worker.ask(command, command.seconds + self._timeout_seconds)
        except (WorkerDiedError, WorkerHungError, WorkerTookTooMuchError) as end:
            raise AutobatchError(str(end), code="worker_died") from None
        finally:
            self.busy_seconds += time.monotonic() - begin
        if isinstance(reply, wire.Refused):
            raise reply.rebuilt()
        return reply

    def _measure(self, command: wire.TryOut | wire.TimeRound) -> wire.Tried | wire.Timed:
        if self._worker is None or not self._worker.has_session:
            self.open()
        assert self._worker is not None
        self._used = True
        begin = time.monotonic()
        try:
            reply = self._worker.ask(command, self._timeout_seconds)
        except (WorkerDiedError, WorkerHungError, WorkerTookTooMuchError) as end:
            return _death(command, end, self._timeout_seconds)
        finally:
            self.busy_seconds += time.monotonic() - begin
        if isinstance(reply, wire.Refused):
            raise reply.rebuilt()
        assert isinstance(reply, (wire.Tried, wire.Timed))
        if isinstance(reply, wire.Tried) and reply.outcome is not Outcome.OK:
            # A process that ran out of memory keeps a fragmented heap and would understate the next size.
            self._worker.end_session()
        return reply


def _larger(known: SampleSizes | None, new: SampleSizes | None) -> SampleSizes | None:
    """What more samples say: a stream is read from its beginning in each session."""
    if known is None or new is None:
        return known or new
    return new if new.scanned >= known.scanned else known


def crashed(command: wire.Train, detail: str) -> wire.Trained:
    """The outcome of a training whose process did not survive it."""
    ended = Training(
        batch_size=command.batch_size,
        learning_rate_factor=command.learning_rate_factor,
        outcome=Outcome.CRASHED,
        steps=0,
        seconds=0.0,
        detail=detail,
    )
    return wire.Trained(training=ended, held_out="")


def _death(
    command: wire.TryOut | wire.TimeRound,
    end: WorkerDiedError | WorkerHungError | WorkerTookTooMuchError,
    timeout_seconds: float,
) -> wire.Tried:
    batch_size = command.batch_size
    # A round tells no phases: that would take longer than some of its steps.
    phase = "timing" if isinstance(command, wire.TimeRound) else end.phase
    if isinstance(end, WorkerHungError):
        return wire.Tried(
            batch_size=batch_size,
            outcome=Outcome.TIMEOUT,
            phase=phase,
            detail=f"no end after {timeout_seconds:g} s",
        )
    if isinstance(end, WorkerTookTooMuchError):
        return wire.Tried(
            batch_size=batch_size,
            outcome=Outcome.OUT_OF_MEMORY,
            phase=phase,
            detail="the watchdog stopped it above the memory limit",
            cause=Cause.OUT_OF_MEMORY,
        )
    how = signal_name(end.status)
    detail = f"killed by {how}" if end.status < 0 else f"the process ended with {how}"
    if end.status == _OUT_OF_HOST_MEMORY:
        detail += " (by the system if the machine ran out of memory)"
    return wire.Tried(batch_size=batch_size, outcome=Outcome.CRASHED, phase=phase, detail=detail)


def _start_failed(recipe: wire.Recipe, end: Exception) -> AutobatchError:
    name = f"`{recipe.target}`" if recipe.target else "the model"
    if isinstance(end, WorkerHungError):
        what, fact = "did not come up", f"no answer after {START_TIMEOUT_SECONDS:g} s"
    elif isinstance(end, WorkerDiedError):
        what = "died"
        how = signal_name(end.status)
        fact = f"killed by {how}" if end.status < 0 else f"it ended with {how}"
    else:
        what, fact = "took more memory than it may", str(end)
    phase = getattr(end, "phase", "") or "start"
    return TargetError(
        f"the worker process {what} while it prepared {name}",
        code="worker_died",
        facts=(fact, f"in the {phase} phase"),
        hint=f"run `python {recipe.target}` to see what happens" if recipe.target.endswith(".py") else "",
    )

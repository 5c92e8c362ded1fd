"""A simulated device with real behaviour: a memory limit, a latency curve, noise, crashes.

It meets the same protocols as the real ones (Backend for the device, Engine for the place of trials). Its
clock is simulated, so that a climb of minutes takes milliseconds and repeats exactly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import exp, inf, log, nan

from autobatch.decision.noise_scale import Chunks
from autobatch.devices.base import Backend, Peak
from autobatch.engines import messages, trace_messages, worker_failures
from autobatch.engines.base import Opened
from autobatch.records.check import Evaluation, LossKind, Training
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError, DeviceError
from autobatch.records.limits import Limits
from autobatch.records.trial import MemoryLine, Outcome
from autobatch.records.workload import SampleSizes, Workload
from autobatch.worker.short_training import steps_to_next_evaluation
from autobatch.worker.step_timing import Measurer

MIB = 1 << 20


class OutOfMemoryError(RuntimeError):
    """The error of the simulated allocator; recognised like torch's by its name."""


class CrashError(BaseException):
    """The simulated process died: nothing in it may catch this."""


@dataclass
class Machine:
    """The facts of a simulated device, in bytes and seconds.

    `step_seconds`: of a batch size. Loading a sample takes `load_seconds` in one process; the workers of a
    DataLoader share it, as many as there are `processors`, and with a number in `loader_errors` it fails.
    The largest samples take `largest_ratio` times the memory and the time of typical ones. `noise`:
    standard deviation of the logarithm of a step's time. `crashes`: how often the process dies at a size.
    `failures`: the message of the error that a size raises. `dataset_size` may be more than a stream really
    has (`stream_size`). `noise_scale`: of the gradient, in samples, infinite where it has no mean.
    `noise_error`: the error of its measurement, which then has no result. `loss_kind`: the result of the
    measurement of it. For a sum, learning rates are those of the sum. A training takes S_min (1 +
    critical_batch_size / B) steps to a loss, with `loss_noise` (of its logarithm) in each evaluation; it
    diverges above `highest_learning_rate_factor`, its loss is higher the further the learning rate is from
    `best_learning_rate_factor`, and `handicaps` times as high at a size, and its process dies at those of
    `training_deaths`. A step makes x exp(1 - x) of its progress at x times the
    `fastest_learning_rate_factor`. `heap_loss`: a process loses up to this share of its memory between
    blocks, another share in each fresh process; the device then calls itself a CPU. `traced_share`: the
    share of its memory that a trace sees; None where the step can't be traced. `smallest_trained`: all
    sizes below fail. `keeps_state`: a batch fails after one of another size, `restorable` until the first
    state is put back, `hidden` until the process ends. `schedule_steps`: steps after which a schedule has
    ended. `idle_after`: steps of a process after which a step does nothing. `nan_below`: smaller sizes have
    a loss that is not a number. `leaked_bytes`: memory that each step keeps; the optimizer does where it
    `optimizer_collects`. `start_seconds`: of a session.
    `trainings_at_once`: that many take the time of the longest of them.
    """

    total_bytes: int = 1024 * MIB
    fixed_bytes: int = 64 * MIB
    sample_bytes: int = MIB
    step_seconds: Callable[[int], float] = lambda size: 0.01 + 0.0001 * size
    noise: float = 0.0
    largest_ratio: float = 1.0
    load_seconds: float = 0.0
    processors: int = 8
    loader_errors: dict[int, str] = field(default_factory=dict)
    dataset_size: int | None = None
    current_batch_size: int | None = None
    workers: int | None = None
    crashes: dict[int, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    hangs: set[int] = field(default_factory=set)
    noise_scale: float = 100.0
    noise_error: str = ""
    loss_kind: LossKind = LossKind.UNKNOWN
    critical_batch_size: float = 200.0
    highest_learning_rate_factor: float = float("inf")
    best_learning_rate_factor: float | None = None
    fastest_learning_rate_factor: float | None = None
    handicaps: dict[int, float] = field(default_factory=dict)
    training_deaths: set[int] = field(default_factory=set)
    loss_noise: float = 0.0
    heap_loss: float = 0.0
    traced_share: float | None = 1.0
    smallest_trained: int = 1
    keeps_state: str = ""
    schedule_steps: int | None = None
    nan_below: int = 0
    idle_after: int | None = None
    leaked_bytes: int = 0
    optimizer_collects: bool = False
    trainings_at_once: int = 1
    start_seconds: float = 0.0
    seed: int = 0

    def bytes_at(self, size: int, ratio: float = 1.0) -> int:
        return self.fixed_bytes + int(size * self.sample_bytes * ratio)

    @property
    def true_ceiling(self) -> int:
        """The largest size whose step fits on any samples, memory alone considered."""
        return int((self.total_bytes - self.fixed_bytes) // (self.sample_bytes * self.largest_ratio))

    @property
    def sizes(self) -> SampleSizes:
        return SampleSizes(scanned=100, smallest=10, median=10.0, largest=round(10 * self.largest_ratio))


class LargestBatch(int):
    """A batch of the largest samples; any other is its size alone."""


class SimulatedBackend(Backend):
    """One simulated device with a virtual clock and an exact allocator."""

    kind = "simulated"

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine()
        self._random = random.Random(self.machine.seed)
        self._clock = 0.0
        self._allocated = 0
        self._rest = 0
        self._peak = 0
        self._limit: int | None = None
        self._lost_share = 0.0
        if self.machine.heap_loss:
            self.kind = "cpu"

    def start_process(self) -> None:
        """A fresh process holds nothing, and loses another share of its memory between blocks."""
        self._allocated = self._rest
        self._lost_share = self.machine.heap_loss * self._random.random()

    @property
    def torch_device(self) -> str:
        return "simulated:0"

    def describe(self) -> Device:
        limit = self._limit or self.machine.total_bytes
        return Device(
            kind=self.kind,
            index=0,
            name="simulated device",
            total_bytes=self.machine.total_bytes,
            free_bytes=self.machine.total_bytes - self._allocated,
            limit_bytes=limit,
            limit_source="simulated",
        )

    def warm_up(self) -> None:
        self._clock += 0.1

    def limit_memory(self, limit_bytes: int | None, held_bytes: int = 0, fraction: float = 1.0) -> None:
        if limit_bytes is not None and fraction * limit_bytes <= held_bytes:
            raise DeviceError("the model alone does not fit into the memory limit", code="nothing_fits")
        self._limit = int(fraction * (limit_bytes or self.machine.total_bytes))
        self._rest = self._allocated - held_bytes

    def allocate(self, size_bytes: int) -> int:
        """Takes memory; raises like a device that has no more."""
        limit = self._rest + (self._limit or self.machine.total_bytes)
        if self._allocated + size_bytes > min(limit, self.machine.total_bytes):
            raise OutOfMemoryError(f"out of memory. Tried to allocate {size_bytes} bytes.")
        self._allocated += size_bytes
        self._peak = max(self._peak, self._allocated)
        return size_bytes

    def free(self, size_bytes: int) -> None:
        self._allocated -= size_bytes

    def run(self, size: int) -> None:
        """One training step of `size` samples."""
        ratio = self.machine.largest_ratio if isinstance(size, LargestBatch) else 1.0
        held = self.allocate(int(self.machine.bytes_at(size, ratio) / (1 - self._lost_share)))
        seconds = self.machine.step_seconds(size) * ratio
        self._clock += seconds * self._random.lognormvariate(0.0, self.machine.noise)
        self.free(held)

    def pass_time(self, seconds: float) -> None:
        self._clock += seconds

    def synchronize(self) -> None:
        """Nothing runs behind the clock's back."""

    def now(self) -> float:
        return self._clock

    def reset_peak(self) -> None:
        self._peak = self._allocated

    def peak(self) -> Peak:
        return Peak(allocated_bytes=max(0, self._peak - self._rest))

    def live_bytes(self) -> int:
        return self._allocated

    def start_usage(self) -> None:
        """Utilisation is not simulated."""

    def utilisation(self) -> float | None:
        return None


def noise_chunks(noise_scale: float, chunk_size: int, chunks: int = 32) -> Chunks:
    """The sums of chunks that give exactly this noise scale back.

    Each gradient is a mean of norm 1 (0 for an infinite scale) and noise, orthogonal to all others.
    """
    mean = 0.0 if noise_scale == float("inf") else 1.0
    spread = noise_scale / chunk_size if mean else 1.0
    return Chunks(
        chunk_size=chunk_size,
        squared_norms=(mean + spread,) * chunks,
        inner_products=(chunks * mean + spread,) * chunks,
        sum_squared_norm=chunks * (chunks * mean + spread),
    )


class SimulatedTrainer:
    """The work on a simulated device: its batches are their own sizes."""

    def __init__(self, backend: SimulatedBackend, on_run: Callable[[int], None]) -> None:
        self._backend = backend
        self._on_run = on_run
        self.phase = ""
        self.optimizer_steps = 0
        self.skipped_steps = 0
        self.state_size: int | None = None
        self.started = 0
        self.schedule = 0

    @property
    def dataset_size(self) -> int | None:
        return self._backend.machine.dataset_size

    def load(self, batch_size: int, seed: int) -> int:
        self.phase = "load"
        self._backend.pass_time(batch_size * self._backend.machine.load_seconds)
        return batch_size

    @property
    def sample_sizes(self) -> SampleSizes:
        return self._backend.machine.sizes

    keeps_samples = False

    @property
    def optimizer_tensors(self) -> int:
        return self.optimizer_steps if self._backend.machine.optimizer_collects else 2

    def load_largest(self, batch_size: int, seed: int) -> int:
        return LargestBatch(self.load(batch_size, seed))

    def load_validation(self, batch_size: int, seed: int) -> int:
        return self.load(batch_size, seed)

    def warm_up(self, batch: int) -> bool:
        """Nothing compiles here, and no gradient overflows."""
        return False

    def highest(self, *values: float) -> tuple[float, ...]:
        """There is one rank here."""
        return values

    def alone(self) -> nullcontext[None]:
        return nullcontext()

    def step(self, batch: int) -> float:
        """The loss of the step."""
        machine = self._backend.machine
        self.phase = "forward"
        self.started += 1
        if machine.idle_after is not None and self.started > machine.idle_after:
            self._backend.pass_time(1e-6)
            return 1.0
        self._on_run(batch)
        if machine.keeps_state and self.state_size not in (None, batch):
            raise ValueError(f"the state is of {self.state_size} samples, not {batch}")
        if self.schedule == machine.schedule_steps:
            raise ValueError(f"tried to step {self.schedule + 1} times")
        self.state_size = int(batch)
        self.schedule += 1
        self._backend.run(batch)
        self._backend.allocate(machine.leaked_bytes)
        self.optimizer_steps += 1
        return nan if batch < machine.nan_below else 1.0

    def evaluate(self, batch: int) -> None:
        self.phase = "evaluation"


class SimulatedFirstState:
    """The first state of the simulated work, as far as it can be put back."""

    is_shared = False

    def __init__(self, backend: SimulatedBackend, trainer: SimulatedTrainer) -> None:
        self._restorable = backend.machine.keeps_state != "hidden"
        self._trainer = trainer
        self.is_kept = False

    def keep(self) -> None:
        self.is_kept = True

    def carried(self) -> tuple[str, ...]:
        has_state = self._restorable and self._trainer.state_size is not None
        return ("Simulated.state",) if has_state else ()

    def restore(self) -> None:
        self.restore_plain()

    def restore_plain(self) -> None:
        if self._restorable:
            self._trainer.state_size = None
            self._trainer.schedule = 0


class SimulatedEngine:
    """Runs the worker's own measuring code on a simulated device, in this process.

    `tries`, `rounds`, `loss_kind_commands`, `noise_commands`, `train_commands` and `loader_commands` list the
    requests, in their order.
    """

    def __init__(self, machine: Machine, limits: Limits | None = None) -> None:
        self.machine = machine
        self._backend = SimulatedBackend(machine)
        if limits is not None:
            self._backend.limit_memory(limits.memory_bytes, 0, limits.memory_fraction)
        self._measurer: Measurer | None = None
        self._used = False
        self._crashes_left = dict(machine.crashes)
        self.sessions = 0
        self.traces = 0
        self.tries: list[int] = []
        self.rounds: list[int] = []
        self.loss_kind_commands: list[messages.MeasureLossKind] = []
        self.noise_commands: list[messages.MeasureNoise] = []
        self.train_commands: list[messages.Train] = []
        self.loader_commands: list[messages.TimeLoader] = []
        self._random = random.Random(machine.seed)
        self.busy_seconds = 0.0
        self.compile_seconds = 0.0
        self.start_seconds = 0.0
        self.sizes: SampleSizes | None = machine.sizes
        self.trainings_at_once = machine.trainings_at_once
        self.ranks = 1
        self.local_ranks = 1
        self.closed = False

    def open(self) -> Opened:
        if self._measurer is None:
            self.sessions += 1
            self._used = False
            self._backend.start_process()
            self.start_seconds = self.machine.start_seconds
            self.busy_seconds += self.start_seconds
            trainer = SimulatedTrainer(self._backend, self._before_step)
            first_state = SimulatedFirstState(self._backend, trainer)
            self._measurer = Measurer(self._backend, trainer, 0, first_state)
        workload = Workload(
            target="simulated",
            model="Simulated",
            parameters=0,
            loss="none",
            optimizer="none",
            dataset_size=self.machine.dataset_size,
            batch_size=self.machine.current_batch_size,
            sizes=self.machine.sizes,
            workers=self.machine.workers,
        )
        return Opened(device=self._backend.describe(), workload=workload, torch="none")

    def take_fingerprint(self) -> messages.Fingerprint:
        return messages.Fingerprint(parts={}, detail="a simulation")

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> messages.Tried:
        batch_size = sizes[0] if sizes else batch_size
        self.tries.append(batch_size)
        assert len(self.tries) < 500, "the search does not end"
        reply = self._measure(lambda m: m.try_out(batch_size, seconds, steps), batch_size)
        assert isinstance(reply, messages.Tried)
        return reply

    def time_round(
        self, batch_size: int, seconds: float, *, alone: bool = False, sizes: tuple[int, ...] = ()
    ) -> messages.Timed | messages.Tried:
        batch_size = sizes[0] if sizes else batch_size
        self.rounds.append(batch_size)
        return self._measure(lambda m: m.time_round(batch_size, seconds, alone=alone), batch_size)

    def time_each(self, batch_size: int, seconds: float) -> list[float]:
        reply = self.time_round(batch_size, seconds, alone=True)
        if isinstance(reply, messages.Tried):
            raise AutobatchError(reply.detail, code="step_fails")
        return [reply.step_seconds]

    def trace_memory(self, *, without_data: bool = False) -> trace_messages.Traced:
        """The machine's line, or as much of it as a trace sees."""
        self.traces += 1
        self.renew()
        share = self.machine.traced_share
        if share is None:
            return trace_messages.Traced(lines=(), detail="the step can't be traced")
        line = MemoryLine(
            fixed_bytes=share * self.machine.fixed_bytes, sample_bytes=share * self.machine.sample_bytes
        )
        return trace_messages.Traced(lines=(line,))

    def measure_loss_kind(self, command: messages.MeasureLossKind) -> messages.LossForm:
        """The machine's kind of loss. A few steps take no time here."""
        self.loss_kind_commands.append(command)
        return messages.LossForm(kind=self.machine.loss_kind)

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        """Three equal measurements that say the machine's noise scale, after the whole burn-in."""
        self.noise_commands.append(command)
        self.renew()
        self.open()
        self._used = True
        self._pass(command.burn_in_seconds)
        steps = int(command.burn_in_seconds / self.machine.step_seconds(command.batch_size))
        if self.machine.noise_error:
            return messages.Noise(measured=(), burn_in_steps=steps, error=self.machine.noise_error)
        chunk_size = max(1, min(command.most_samples // 32, command.largest_chunk))
        return messages.Noise(
            measured=(noise_chunks(self.machine.noise_scale, chunk_size),) * 3,
            burn_in_steps=steps,
            after_steps=tuple(max(1, int(share * steps)) for share in (0.25, 0.5, 1.0)),
        )

    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded:
        """A batch of each of two turns at least, or an error at once."""
        self.loader_commands.append(command)
        if command.workers in self.machine.loader_errors:
            return messages.Loaded(batch_seconds=None, detail=self.machine.loader_errors[command.workers])
        alone = command.batch_size * self.machine.load_seconds
        self._pass(max(command.seconds, 2 * alone))
        return messages.Loaded(batch_seconds=alone / min(max(command.workers, 1), self.machine.processors))

    def _pass(self, seconds: float) -> None:
        self._backend.pass_time(seconds)
        self.busy_seconds += seconds

    def train(self, command: messages.Train) -> messages.Trained:
        """A training whose loss falls by the law, for the given time."""
        self.train_commands.append(command)
        size = command.batch_size
        if size in self.machine.training_deaths:
            return worker_failures.of_training(command, "the worker ended with status -9")
        per_step = self.machine.step_seconds(size)
        steps = max(1, int(command.seconds / per_step))
        if command.most_samples is not None:
            steps = min(steps, max(1, round(command.most_samples / size)))
        diverges = self._factor_of_mean(command) > self.machine.highest_learning_rate_factor
        steps = min(steps, 3) if diverges else steps
        self._pass(steps * per_step)
        training = Training(
            batch_size=size,
            learning_rate_factor=command.learning_rate_factor,
            outcome=Outcome.DIVERGED if diverges else Outcome.OK,
            steps=steps,
            seconds=steps * per_step,
            evaluations=() if diverges else tuple(self._evaluations(command, steps)),
        )
        return messages.Trained(training=training, held_out=f"{command.samples} validation samples")

    def _factor_of_mean(self, command: messages.Train) -> float:
        """The factor of the learning rate of the mean that makes the same steps."""
        current = self.machine.current_batch_size
        if self.machine.loss_kind is not LossKind.SUM or current is None:
            return command.learning_rate_factor
        return command.learning_rate_factor * command.batch_size / current

    def train_all(self, commands: Sequence[messages.Train]) -> tuple[messages.Trained, ...]:
        """All at the same time: the longest counts."""
        assert len(commands) <= self.trainings_at_once
        before = self.busy_seconds
        ends, replies = [before], []
        for command in commands:
            self.busy_seconds = before
            replies.append(self.train(command))
            ends.append(self.busy_seconds)
        self.busy_seconds = max(ends)
        return tuple(replies)

    def _evaluations(self, command: messages.Train, steps: int) -> Iterator[Evaluation]:
        size, at = command.batch_size, 0
        most = inf if command.most_samples is None else max(1, round(command.most_samples / size))
        while True:
            progress = at / (1 + self.machine.critical_batch_size / size)
            if self.machine.fastest_learning_rate_factor is not None:
                share = command.learning_rate_factor / self.machine.fastest_learning_rate_factor
                progress *= share * exp(1 - share)
            loss = self.machine.handicaps.get(size, 1.0) * (1 + progress / 5) ** -0.5
            if self.machine.best_learning_rate_factor is not None:
                distance = log(self._factor_of_mean(command) / self.machine.best_learning_rate_factor)
                loss *= 1 + 0.05 * distance**2
            losses = tuple(
                loss * self._random.lognormvariate(0.0, self.machine.loss_noise)
                for _ in range(max(1, command.samples // command.part_size))
            )
            yield Evaluation(steps=at, seconds=at * self.machine.step_seconds(size), losses=losses)
            if at == steps:
                return
            at = min(steps, steps_to_next_evaluation(at, most))

    @property
    def fresh(self) -> bool:
        return self._measurer is None or not self._used

    def renew(self, *, worker: bool = False) -> None:
        self._measurer = None

    def close(self) -> None:
        self.closed = True

    def _measure(
        self, ask: Callable[[Measurer], messages.Timed | messages.Tried], size: int
    ) -> messages.Timed | messages.Tried:
        if self._measurer is None:
            self.open()
        assert self._measurer is not None
        self._used = True
        begin = self._backend.now()
        try:
            reply = ask(self._measurer)
        except CrashError as death:
            self.renew()
            outcome = Outcome.TIMEOUT if size in self.machine.hangs else Outcome.CRASHED
            reply = messages.Tried(batch_size=size, outcome=outcome, phase="forward", detail=str(death))
        finally:
            self.busy_seconds += self._backend.now() - begin
        if isinstance(reply, messages.Tried) and reply.outcome is not Outcome.OK:
            self.renew()
        return reply

    def _before_step(self, size: int) -> None:
        if size in self.machine.hangs:
            raise CrashError("no end after 120 s")
        if self._crashes_left.get(size, 0) > 0:
            self._crashes_left[size] -= 1
            raise CrashError("killed by SIGSEGV")
        if size < self.machine.smallest_trained:
            raise ValueError(f"more than {size} samples are needed")
        if size in self.machine.failures:
            raise RuntimeError(self.machine.failures[size])

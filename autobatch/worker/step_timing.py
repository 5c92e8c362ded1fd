"""Measures one batch size at a time, inside the worker: does it fit, and how long is a step.

Works against two protocols only, a `Backend` (the device) and a `Trains` (the work), so that the tests
drive the same code with a simulated device.
"""

from __future__ import annotations

import gc
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from autobatch.devices.base import Backend
from autobatch.devices.oom import Cause, classify, told_briefly
from autobatch.engines.messages import FULL_STEPS, Refused, Timed, Tried
from autobatch.records.errors import AutobatchError, TargetError
from autobatch.records.trial import Outcome
from autobatch.records.workload import SampleSizes
from autobatch.workload import compilation
from autobatch.workload.dataset import StreamEndedError, describe_batch
from autobatch.workload.user_errors import describe_error, location_of

_ROUND_SECONDS = 0.03
_ROUND_STEPS = 3
# Steps longer than this are their own round: their noise is averaged within the step.
_LONG_STEP_SECONDS = 0.1
_MAX_ROUND_STEPS = 200


class Trains(Protocol):
    """The work that is measured: see autobatch.workload.trainer.Trainer."""

    phase: str
    optimizer_steps: int
    skipped_steps: int

    @property
    def dataset_size(self) -> int | None: ...
    @property
    def sample_sizes(self) -> SampleSizes | None: ...
    @property
    def keeps_samples(self) -> bool: ...
    def load_largest(self, batch_size: int, seed: int) -> Any: ...
    def load(self, batch_size: int, seed: int) -> Any: ...
    def load_validation(self, batch_size: int, seed: int) -> Any: ...
    def warm_up(self, batch: Any) -> bool: ...
    def step(self, batch: Any) -> Any: ...
    def evaluate(self, batch: Any) -> None: ...
    def highest(self, *values: float) -> tuple[float, ...]: ...
    def alone(self) -> AbstractContextManager[None]: ...


class OutOfTimeError(Exception):
    """The time for this trial ended before it had its steps."""


class MemoryPressureError(MemoryError):
    """Nothing failed, but the memory is too small for this size: it swaps, or waits for room."""


class Measurer:
    """Tries and times batch sizes on one device with one trainer."""

    def __init__(self, backend: Backend, trainer: Trains, seed: int) -> None:
        self._backend = backend
        self._trainer = trainer
        self._seed = seed
        self._draws = 0

    def try_out(self, batch_size: int, seconds: float, steps: int = FULL_STEPS) -> Tried:
        """`steps` full training steps and an evaluation pass at one size, or how they failed.

        Memory has to suffice for every batch, so it runs on the largest samples; without rates if these
        are not the usual ones.
        """
        backend, trainer = self._backend, self._trainer
        gc.collect()
        backend.release()
        backend.reset_peak()
        step_seconds: list[float] = []
        batch = None
        finite = True
        try:
            batch, load_seconds = self._load(batch_size, largest=True)
            self._warm_up(batch)
            deadline = backend.now() + seconds
            steps_before, skips_before = trainer.optimizer_steps, trainer.skipped_steps
            backend.start_usage()
            for index in range(steps):
                if steps > FULL_STEPS and index > 0:
                    # A verification is a training in small, and there a new batch lands beside the old one.
                    batch, _ = self._load(batch_size, largest=True)
                loss, took = self._timed_step(batch)
                step_seconds.append(took)
                finite = finite and (loss is None or math.isfinite(float(loss)))
                # Ranks that go on while one has stopped would wait for it.
                (late_seconds,) = trainer.highest(backend.now() - deadline)
                if late_seconds > 0 and index + 1 < steps:
                    raise OutOfTimeError(f"the time ended after {index + 1} of {steps} steps")
            usage = backend.utilisation()
            sizes = trainer.sample_sizes
            typical = sizes is None or not sizes.vary
            if not typical:
                trainer.evaluate(batch)
            trainer.evaluate(trainer.load_validation(batch_size, self._seed))
            backend.synchronize()
            if memory_pressure := backend.memory_pressure():
                raise MemoryPressureError(memory_pressure)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return failed(batch_size, error, trainer, len(step_seconds), batch)
        peak = backend.peak()
        return Tried(
            batch_size=batch_size,
            outcome=Outcome.OK,
            # The first step pays for lazy initialisation, so it is left out of the time.
            step_seconds=min(step_seconds[1:] or step_seconds) if typical else None,
            load_seconds=load_seconds if typical else None,
            utilisation=usage,
            peak_bytes=peak.allocated_bytes,
            reserved_bytes=peak.reserved_bytes,
            steps=steps,
            optimizer_steps=trainer.optimizer_steps - steps_before,
            skipped_steps=trainer.skipped_steps - skips_before,
            finite=finite,
            sizes=sizes,
        )

    def time_round(self, batch_size: int, seconds: float, *, alone: bool = False) -> Timed | Tried:
        """The mean step of a short window, after a warm-up step, synchronised at its ends only.

        `alone`: without the communication of ranks, which all run it at once.
        """
        with self._trainer.alone() if alone else nullcontext():
            return self._time_round(batch_size, seconds)

    def _time_round(self, batch_size: int, seconds: float) -> Timed | Tried:
        backend, trainer = self._backend, self._trainer
        done = 0
        batch = None
        try:
            batch, load_seconds = self._load(batch_size)
            trainer.warm_up(batch)
            steps_before = trainer.optimizer_steps
            _, own_seconds = self._timed_step(batch)
            (warm_seconds,) = trainer.highest(own_seconds)
            done = 1
            steps = _steps_in_round(min(warm_seconds, seconds), seconds)
            backend.start_usage()
            begin = backend.now()
            for _ in range(steps):
                trainer.step(batch)
            backend.synchronize()
            step_seconds = (backend.now() - begin) / steps
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return failed(batch_size, error, trainer, done, batch)
        return Timed(
            batch_size=batch_size,
            step_seconds=step_seconds,
            load_seconds=load_seconds,
            utilisation=backend.utilisation(),
            steps=steps + 1,
            optimizer_steps=trainer.optimizer_steps - steps_before,
        )

    def _warm_up(self, batch: Any) -> None:
        """Does what a training does once at a size; the memory that this takes is none of a step's."""
        if not self._trainer.warm_up(batch):
            return
        self._backend.synchronize()
        gc.collect()
        self._backend.release()
        self._backend.reset_peak()

    def _load(self, batch_size: int, *, largest: bool = False) -> tuple[Any, float | None]:
        """(batch, seconds that loading it took, None where it was there already)."""
        self._draws += 1
        load = self._trainer.load_largest if largest else self._trainer.load
        begin = self._backend.now()
        batch = load(batch_size, self._seed + self._draws)
        return batch, None if self._trainer.keeps_samples else self._backend.now() - begin

    def _timed_step(self, batch: Any) -> tuple[Any, float]:
        begin = self._backend.now()
        loss = self._trainer.step(batch)
        self._backend.synchronize()
        return loss, self._backend.now() - begin


def failed(batch_size: int, error: BaseException, trainer: Trains, steps: int, batch: Any = None) -> Tried:
    """A failure as data: what it counts as, in which phase, and the error to show if it is the user's."""
    phase, detail = trainer.phase, describe_error(error)
    if isinstance(error, OutOfTimeError):
        return Tried(
            batch_size=batch_size, outcome=Outcome.TIMEOUT, phase=phase, detail=str(error), steps=steps
        )
    if isinstance(error, StreamEndedError):
        ended = TargetError(str(error), code="stream_ended")
        return Tried(
            batch_size=batch_size, outcome=Outcome.FAILED, detail=str(error.size), error=Refused.of(ended)
        )
    cause = classify(error)
    if cause is Cause.OUT_OF_MEMORY:
        detail = str(error) if isinstance(error, MemoryPressureError) else told_briefly(detail)
    return Tried(
        batch_size=batch_size,
        outcome=Outcome.OUT_OF_MEMORY if cause is Cause.OUT_OF_MEMORY else Outcome.FAILED,
        phase=phase,
        detail=detail,
        cause=cause,
        error=Refused.of(_user_error(batch_size, error, phase, batch)),
        steps=steps,
    )


def _user_error(batch_size: int, error: BaseException, phase: str, batch: Any) -> AutobatchError:
    if isinstance(error, AutobatchError):
        return error
    if isinstance(error, SystemExit):
        return TargetError(
            f"`sys.exit` was called in the {phase} phase at batch size {batch_size}",
            code="target_exits",
            facts=(f"exit status: {error.code}", *location_of(error)),
            hint="raise an error instead, so that what went wrong can be told",
        )
    if compilation.lacks_compiler(error):
        return TargetError(
            "the model can't be compiled here: torch.compile finds no C++ compiler",
            code="no_compiler",
            facts=(describe_error(error),),
            hint="install one, such as g++, or name it in `CXX`; or give the model without torch.compile",
        )
    shapes = () if batch is None else (f"the batch: {describe_batch(batch)}",)
    return TargetError(
        f"the training step fails at batch size {batch_size}, in the {phase} phase",
        code="step_fails",
        facts=(describe_error(error), *location_of(error), *shapes),
        hint="run one training step of your own with this batch size to see the whole error",
    )


def _steps_in_round(step_seconds: float, seconds: float) -> int:
    """Steps of a round: three at least and 30 ms, one if they are long, no more than fit the time."""
    if step_seconds <= 0:
        return _MAX_ROUND_STEPS
    steps = (
        1
        if step_seconds > _LONG_STEP_SECONDS
        else max(_ROUND_STEPS, math.ceil(_ROUND_SECONDS / step_seconds))
    )
    return max(1, min(steps, _MAX_ROUND_STEPS, int(seconds / step_seconds)))

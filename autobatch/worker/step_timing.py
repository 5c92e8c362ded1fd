"""Measures a batch size, inside the worker: whether it fits, and how long its step takes.

It knows three protocols only, `Backend` (the device), `Trains` (the work) and `Restores` (its first state).
So the tests drive the same code with a simulated device.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from autobatch.devices.base import Backend
from autobatch.devices.oom import Cause, classify
from autobatch.engines.messages import CONFIRM_STEPS, FULL_STEPS, Timed, Tried
from autobatch.records.trial import Outcome
from autobatch.records.workload import SampleSizes
from autobatch.worker.trial_failures import MemoryPressureError, OutOfTimeError, failed

# A round has at least this length and this many steps.
_ROUND_SECONDS = 0.03
_ROUND_STEPS = 3
# A longer step is a round by itself: its noise is averaged within the step.
_LONG_STEP_SECONDS = 0.1
_MAX_ROUND_STEPS = 200


class Trains(Protocol):
    """The work that is measured, such as autobatch.workload.trainer.Trainer."""

    phase: str
    optimizer_steps: int

    @property
    def skipped_steps(self) -> int: ...
    @property
    def optimizer_tensors(self) -> int: ...
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
    def evaluate(self, batch: Any) -> Any: ...
    def highest(self, *values: float) -> tuple[float, ...]: ...
    def alone(self) -> AbstractContextManager[None]: ...


class Restores(Protocol):
    """The first state of the work, such as autobatch.worker.first_state.FirstState."""

    is_kept: bool

    @property
    def is_shared(self) -> bool: ...
    def keep(self) -> None: ...
    def carried(self) -> tuple[str, ...]: ...
    def restore(self) -> None: ...
    def restore_plain(self) -> None: ...


@dataclass
class _Trial:
    """A try as far as it has come.

    `live_bytes`: the memory after each of its last steps. `optimizer_tensors`: those kept by optimizers then.
    """

    batch: Any = None
    load_seconds: float | None = None
    step_seconds: list[float] = field(default_factory=list)
    utilisation: float | None = None
    finite: bool = True
    steps_before: int = 0
    skips_before: int = 0
    sizes: SampleSizes | None = None
    kept_state: tuple[str, ...] = ()
    live_bytes: list[int] = field(default_factory=list)
    optimizer_tensors: set[int] = field(default_factory=set)

    @property
    def typical(self) -> bool:
        """True where samples are of one size, so that the largest batch is like any other."""
        return self.sizes is None or not self.sizes.vary

    @property
    def grown_bytes(self) -> int | None:
        """The memory that each of the last steps added at least; None where it was not looked at.

        None as well while an optimizer collects a history, as LBFGS does: that comes to an end.
        """
        if len(self.optimizer_tensors) > 1:
            return None
        grown = [after - before for before, after in pairwise(self.live_bytes)]
        return max(0, min(grown)) if grown else None


class Measurer:
    """Tries and times batch sizes on one device with one trainer."""

    def __init__(self, backend: Backend, trainer: Trains, seed: int, first_state: Restores) -> None:
        self._backend = backend
        self._trainer = trainer
        self._seed = seed
        self._first_state = first_state
        self._rounds: Counter[int] = Counter()
        self._last_size = 0
        self._most_round_steps = _MAX_ROUND_STEPS
        self._looked_for_state = False

    def try_out(self, batch_size: int, seconds: float, steps: int = FULL_STEPS) -> Tried:
        """Runs `steps` full training steps and an evaluation pass at one size, or says how they failed.

        It starts from the first state of the training. Memory has to suffice for every batch, so it runs on
        the largest samples. Where samples vary in size, it gives no step time: the largest say nothing about
        a typical batch.
        """
        trial = _Trial()
        try:
            trial.kept_state = self._start_anew(batch_size)
            self._clear_memory()
            self._run(trial, batch_size, seconds, steps)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return failed(batch_size, error, self._trainer.phase, len(trial.step_seconds), trial.batch)
        trainer, peak = self._trainer, self._backend.peak()
        return Tried(
            batch_size=batch_size,
            outcome=Outcome.OK,
            # The first step pays for lazy initialisation, so it is left out of the time.
            step_seconds=min(trial.step_seconds[1:] or trial.step_seconds) if trial.typical else None,
            load_seconds=trial.load_seconds if trial.typical else None,
            utilisation=trial.utilisation,
            peak_bytes=peak.allocated_bytes,
            reserved_bytes=peak.reserved_bytes,
            steps=steps,
            optimizer_steps=trainer.optimizer_steps - trial.steps_before,
            skipped_steps=trainer.skipped_steps - trial.skips_before,
            finite=trial.finite,
            sizes=trial.sizes,
            kept_state=trial.kept_state,
            grown_bytes=trial.grown_bytes,
        )

    def _start_anew(self, batch_size: int) -> tuple[str, ...]:
        """Returns to the first state; the attributes without which a batch of this size would fail."""
        first_state, last_size, self._last_size = self._first_state, self._last_size, batch_size
        if not first_state.is_kept:
            first_state.keep()
            return ()
        carried: tuple[str, ...] = ()
        if batch_size != last_size and not self._looked_for_state and not first_state.is_shared:
            carried = first_state.carried()
            self._looked_for_state = bool(carried)
        fails = bool(carried) and self._step_fails(batch_size)
        first_state.restore()
        return carried if fails else ()

    def _step_fails(self, batch_size: int) -> bool:
        """True where a step from the current state ends with an error of the user's code."""
        try:
            batch, _ = self._load(batch_size, largest=True)
            self._trainer.step(batch)
        except (Exception, SystemExit) as error:
            return classify(error) is Cause.USER_ERROR
        return False

    def _run(self, trial: _Trial, batch_size: int, seconds: float, steps: int) -> None:
        """Fills the trial as it goes, so that a failure loses nothing. Raises its failure."""
        backend, trainer = self._backend, self._trainer
        trial.batch, trial.load_seconds = self._load(batch_size, largest=True)
        self._warm_up(trial.batch)
        deadline = backend.now() + seconds
        trial.steps_before, trial.skips_before = trainer.optimizer_steps, trainer.skipped_steps
        backend.start_usage()
        for index in range(steps):
            if steps > CONFIRM_STEPS and index > 0:
                # A verification is a short training, in which a new batch is loaded beside the old one.
                trial.batch, _ = self._load(batch_size, index, largest=True)
            loss, step_seconds = self._timed_step(trial.batch)
            trial.step_seconds.append(step_seconds)
            trial.finite = trial.finite and (loss is None or math.isfinite(float(loss)))
            if steps > FULL_STEPS and index > 0:
                trial.live_bytes.append(backend.live_bytes() or 0)
                trial.optimizer_tensors.add(trainer.optimizer_tensors)
            # A rank that went on after another had stopped would wait for it.
            (late_seconds,) = trainer.highest(backend.now() - deadline)
            if late_seconds > 0 and index + 1 < steps:
                raise OutOfTimeError(f"the time ended after {index + 1} of {steps} steps")
        trial.utilisation = backend.utilisation()
        trial.sizes = trainer.sample_sizes
        if not trial.typical:
            trainer.evaluate(trial.batch)
        trainer.evaluate(trainer.load_validation(batch_size, self._seed))
        backend.synchronize()
        if memory_pressure := backend.memory_pressure():
            raise MemoryPressureError(memory_pressure)

    def time_round(self, batch_size: int, seconds: float, *, alone: bool = False) -> Timed | Tried:
        """The mean step of a short window, after a warm-up step, synchronised at its ends only.

        `alone`: without the communication of the ranks, all of which run it at the same time.
        """
        with self._trainer.alone() if alone else nullcontext():
            return self._time_round(batch_size, seconds)

    def _time_round(self, batch_size: int, seconds: float) -> Timed | Tried:
        backend, trainer = self._backend, self._trainer
        done = 0
        batch = None
        try:
            self._last_size = batch_size
            self._first_state.restore_plain()
            self._rounds[batch_size] += 1
            batch, load_seconds = self._load(batch_size, self._rounds[batch_size])
            trainer.warm_up(batch)
            steps_before = trainer.optimizer_steps
            _, seconds_here = self._timed_step(batch)
            (warm_seconds,) = trainer.highest(seconds_here)
            done = 1
            steps = min(_steps_in_round(warm_seconds, seconds), self._most_round_steps)
            backend.start_usage()
            begin = backend.now()
            for _ in range(steps):
                trainer.step(batch)
                done += 1
            backend.synchronize()
            step_seconds = (backend.now() - begin) / steps
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            failure = failed(batch_size, error, trainer.phase, done, batch)
            if failure.cause is not Cause.USER_ERROR or done <= _ROUND_STEPS or self._first_state.is_shared:
                return failure
            # A schedule in the user's step may end before a round does. A shorter round fits into it.
            self._most_round_steps = done // 2
            return self._time_round(batch_size, seconds)
        return Timed(
            batch_size=batch_size,
            step_seconds=step_seconds,
            load_seconds=load_seconds,
            utilisation=backend.utilisation(),
            steps=steps + 1,
            optimizer_steps=trainer.optimizer_steps - steps_before,
        )

    def _warm_up(self, batch: Any) -> None:
        """Does the work that a training does once at a size. Its memory does not count as that of a step."""
        if self._trainer.warm_up(batch):
            self._backend.synchronize()
            self._clear_memory()

    def _clear_memory(self) -> None:
        gc.collect()
        self._backend.release()
        self._backend.reset_peak()

    def _load(self, batch_size: int, number: int = 0, *, largest: bool = False) -> tuple[Any, float | None]:
        """(batch, seconds that loading it took, None where its samples were read before).

        The same number draws the same samples in every session, so that a failure of them repeats.
        """
        load = self._trainer.load_largest if largest else self._trainer.load
        begin = self._backend.now()
        batch = load(batch_size, self._seed + number)
        return batch, None if self._trainer.keeps_samples else self._backend.now() - begin

    def _timed_step(self, batch: Any) -> tuple[Any, float]:
        begin = self._backend.now()
        loss = self._trainer.step(batch)
        self._backend.synchronize()
        return loss, self._backend.now() - begin


def _steps_in_round(step_seconds: float, seconds: float) -> int:
    """Steps of a round: at least three and 30 ms, a single one if it is long, no more than fit the time."""
    if step_seconds <= 0:
        return _MAX_ROUND_STEPS
    steps = (
        1
        if step_seconds > _LONG_STEP_SECONDS
        else max(_ROUND_STEPS, math.ceil(_ROUND_SECONDS / step_seconds))
    )
    return max(1, min(steps, _MAX_ROUND_STEPS, int(seconds / step_seconds)))

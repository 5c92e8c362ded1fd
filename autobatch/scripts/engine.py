"""A watched script as an engine: sizes tried and timed, gradients measured, short trainings run.

Sizes count the samples of one optimizer step on one rank, over all its micro batches. They change in place
where the script's loader takes it, else by starting the command again with its knob at another size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import median

import msgspec

from autobatch.engines import messages
from autobatch.engines.base import Opened
from autobatch.records.check import LossKind
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.scripts import description
from autobatch.scripts.command import Command
from autobatch.scripts.generalization import Generalization
from autobatch.scripts.knob import Split
from autobatch.scripts.losses import LossGrowth, first_loss
from autobatch.scripts.messages import Measured
from autobatch.scripts.process import ScriptEndedError
from autobatch.scripts.schedule import Schedule
from autobatch.scripts.session import Session
from autobatch.scripts.unanswered import Unanswered

ROUNDS, MIN_REPEATS = 5, 3
# Steps so long are measured with fewer rounds: a budget holds few of them.
_SLOW_STEP_SECONDS = 0.5
_WARM_UP_STEPS = 2
# Of a measurement of slow steps: the first that may have another size, a warm-up, two rounds.
_FEWEST_STEPS = 4
# A round is that many steps at least, and that long; longer steps are rounds by themselves.
_ROUND_STEPS, _MOST_ROUND_STEPS, _ROUND_SECONDS, _LONG_STEP_SECONDS = 3, 100, 0.03, 0.1
_EVALUATION_SECONDS = 10.0
# Processes for one size, as far as there is time.
_TRIES = 3


class ScriptEngine(Unanswered):
    """The engine of one `session`."""

    trainings_at_once = 1

    def __init__(
        self,
        command: Command,
        limits: Limits,
        scratch: Path,
        *,
        epochs: float | None = None,
        contended: bool = False,
    ) -> None:
        """`epochs` replaces those of the script. `contended`: other processes keep the processors busy."""
        self.session = Session(command, limits, scratch, contended=contended)
        self.schedule = Schedule(self.session, limits.budget_seconds)
        self.compile_seconds = 0.0
        self._command = command
        self._limits = limits
        self._epochs = epochs
        self._step_seconds: dict[int, float] = {}
        self._growth = LossGrowth()
        self._last_loss: tuple[int, float | None] | None = None
        self._generalization = Generalization(
            self.session,
            self.schedule,
            self._step_seconds,
            str(scratch / "tmp" / "first-weights.pt"),
            seed=limits.seed,
        )

    def open(self) -> Opened:
        """Start the command and watch its first steps. Raises AutobatchError for what can't be measured."""
        self.session.open()
        observed = self.session.observed
        workload = description.workload_of(self._command, observed, self.session.knob)
        if self._epochs is not None:
            workload = replace(workload, epochs=self._epochs)
        return Opened(
            device=description.device_of(observed, self._limits),
            workload=workload,
            torch=observed.torch,
            world_size=observed.world_size,
        )

    @property
    def ranks(self) -> int:
        return self.session.observed.world_size

    @property
    def local_ranks(self) -> int:
        return self.session.observed.world_size

    @property
    def busy_seconds(self) -> float:
        """Wall time since the beginning, all starts of the command included."""
        return self.schedule.elapsed_seconds

    @busy_seconds.setter
    def busy_seconds(self, value: float) -> None:
        self.schedule.begin = time.monotonic() - value

    @property
    def start_seconds(self) -> float:
        """Seconds that the command took to its first steps."""
        return self.session.start_seconds

    @property
    def fresh(self) -> bool:
        return self.session.fresh

    @property
    def is_summed(self) -> bool:
        """True where the loss grows with the batch size, as a sum over samples does."""
        return self._growth.is_summed

    # Measurements

    def measure(self, size: int, seconds: float, rounds: int | None = None) -> Measured:
        """Rounds of steps at `size`, of the slowest rank. Raises ScriptEndedError.

        A script that ends meanwhile is started again, and so is one whose size doesn't change in place.
        """
        starts = self.session.starts
        slow = self.is_slow(size)
        measured = self._first_steps(size) if slow or self.schedule.is_over else None
        if rounds is None:
            rounds = MIN_REPEATS if slow else ROUNDS
        if measured is None:
            measured = self._measured(size, seconds, rounds)
        if self.session.in_place and size != self.session.current_size:
            self.session.proven.add(size)
        self._step_seconds[size] = median(measured.round_seconds)
        self._compare_losses(size, measured, restarted=self.session.starts > starts)
        return measured

    def _first_steps(self, size: int) -> Measured | None:
        """The first steps of a process at `size` as its measurement; None where others are better."""
        observed = self.session.first_steps(size)
        # Steps of an accelerator end later than their hooks.
        if observed is None or not observed.step_seconds or observed.device.kind != "cpu":
            return None
        # A single time may be that of a compilation: only where no others can be had, it counts.
        others = _FEWEST_STEPS * median(observed.step_seconds)
        if len(observed.step_seconds) == 1 and self.busy_seconds + others < self.schedule.end_seconds:
            return None
        return observed.measured

    def _measured(self, size: int, seconds: float, rounds: int) -> Measured:
        """Rounds of steps of a process after its first ones."""
        slow = self.is_slow(size)
        for _ in range(_TRIES):
            results = self.session.ask(
                "measure",
                size,
                min(seconds, self.schedule.left_seconds),
                rounds=rounds,
                round_steps=self._round_steps(size),
                warm_up=1 if slow else _WARM_UP_STEPS,
            )
            measured = _slowest([msgspec.convert(result, Measured, strict=False) for result in results])
            if measured.round_seconds and (len(measured.round_seconds) >= rounds or not measured.ended):
                break
            if not measured.round_seconds and not measured.ended and self.session.in_place:
                self.session.give_up_in_place()
            if self.busy_seconds + self.session.start_seconds > self.schedule.end_seconds:
                break
        if not measured.round_seconds:
            why = f"no full batch of {size:,} came up in an epoch"
            raise ScriptEndedError(Outcome.FAILED, why)
        return measured

    def is_slow(self, size: int) -> bool:
        """True where a budget holds few steps at `size`."""
        return self._expected_step_seconds(size) > _SLOW_STEP_SECONDS

    def _compare_losses(self, size: int, measured: Measured, *, restarted: bool) -> None:
        """Note the loss before and after a change of size: in one process, or at the beginning of two."""
        if restarted:
            current = self.session.current_size, first_loss(self.session.observed.losses)
            other = size, first_loss(self.session.started.losses)
            self._growth.add(*min(current, other), *max(current, other))
        elif self._last_loss is not None:
            self._growth.add(*self._last_loss, size, measured.first_loss)
        self._last_loss = size, measured.last_loss

    def _round_steps(self, size: int) -> int:
        """Steps of a round at `size`, by the times so far."""
        step_seconds = self._expected_step_seconds(size)
        if step_seconds > _LONG_STEP_SECONDS:
            return 1
        return min(_MOST_ROUND_STEPS, max(_ROUND_STEPS, ceil(_ROUND_SECONDS / step_seconds)))

    def _expected_step_seconds(self, size: int) -> float:
        """The step time of the measured size that is nearest, else that of the first steps."""
        if self._step_seconds:
            nearest = min(self._step_seconds, key=lambda measured: abs(measured - size))
            return self._step_seconds[nearest]
        observed = self.session.observed.step_seconds
        return median(observed) if observed else 1.0

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> messages.Tried:
        """A few steps at a size and the script's own evaluation, or how they failed."""
        try:
            # Its first steps were full ones, or it wouldn't be proven.
            observed = self.session.start_at(batch_size)
            if not observed.ended:
                self.session.evaluate(min(_EVALUATION_SECONDS, self.schedule.evaluation_seconds))
        except ScriptEndedError as ended:
            return messages.Tried(batch_size=batch_size, outcome=ended.outcome, detail=ended.detail)
        return messages.Tried(
            batch_size=batch_size, outcome=Outcome.OK, steps=observed.steps, optimizer_steps=observed.steps
        )

    def measure_loss_kind(self, command: messages.MeasureLossKind) -> messages.LossForm:
        """A sum, by the losses of the steps so far: a script can't repeat its samples."""
        return messages.LossForm(kind=LossKind.SUM if self.is_summed else LossKind.UNKNOWN)

    def take_snapshot(self) -> None:
        """Save the weights that noise and trainings start from."""
        self._generalization.take_snapshot()

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        """Gradients at frozen weights, at three points of a burn-in from the first weights on."""
        return self._generalization.measure_noise(command)

    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]:
        """One short training after the other, each from the first weights."""
        return [self._generalization.train(command, is_summed=self.is_summed) for command in commands]

    @property
    def noisy_optimizer(self) -> str:
        """The optimizer whose gradient noise was the smallest; empty where none was measured."""
        return self._generalization.noisy_optimizer

    def time_split(self, split: Split, seconds: float) -> Measured | None:
        """Rounds of steps with other accumulation steps, in a new process; None where they can't be had."""
        try:
            if not self.session.start_split(split):
                return None
            slow = self._step_seconds.get(split.batch_size, 1.0) > _SLOW_STEP_SECONDS
            order = {"rounds": MIN_REPEATS, "round_steps": 1, "warm_up": 1 if slow else _WARM_UP_STEPS}
            results = self.session.ask(
                "measure", split.batch_size, min(seconds, self.schedule.left_seconds), **order
            )
        except ScriptEndedError:
            return None
        finally:
            self.session.end()
        measured = _slowest([msgspec.convert(result, Measured, strict=False) for result in results])
        return measured if measured.round_seconds else None

    def renew(self, *, worker: bool = False) -> None:
        """From now on a fresh process."""
        self.session.end()

    def close(self) -> None:
        """End all processes of the command."""
        self.session.end()

    def time_round(
        self, batch_size: int, seconds: float, *, alone: bool = False, sizes: tuple[int, ...] = ()
    ) -> messages.Timed | messages.Tried:
        """One round; a script has no step without its communication, and one size for all ranks."""
        try:
            measured = self.measure(batch_size, seconds, rounds=1)
        except ScriptEndedError as ended:
            return messages.Tried(batch_size=batch_size, outcome=ended.outcome, detail=ended.detail)
        return messages.Timed(
            batch_size=batch_size,
            step_seconds=measured.round_seconds[0],
            load_seconds=measured.load_seconds,
            utilisation=None,
            steps=measured.steps,
            optimizer_steps=measured.steps,
        )


def _slowest(measured: Sequence[Measured]) -> Measured:
    """One step of all ranks: the time of the slowest in each round, the most memory that one took."""
    rounds = min(len(rank.round_seconds) for rank in measured)
    times = [max(rank.round_seconds[place] for rank in measured) for place in range(rounds)]
    peaks = [rank.peak_bytes for rank in measured if rank.peak_bytes is not None]
    return msgspec.structs.replace(
        measured[0],
        round_seconds=times,
        peak_bytes=max(peaks, default=None),
        ended=any(rank.ended for rank in measured),
    )

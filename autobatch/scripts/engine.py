"""A watched script as an engine: sizes tried and timed, gradients measured, short trainings run.

Sizes count the samples of one optimizer step on one rank, over all its micro batches. They change in place
where the script's loader takes it, else by starting the command again with its knob at another size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, inf
from pathlib import Path
from statistics import median

import msgspec

from autobatch.decision.constants import FEWEST_CHUNKS, SKETCH_WIDTH
from autobatch.decision.noise_scale import Chunks
from autobatch.engines import messages
from autobatch.engines.base import Opened
from autobatch.records.check import LossKind
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.records.workload import SampleSizes
from autobatch.scripts import description
from autobatch.scripts.command import Command
from autobatch.scripts.messages import Measured, NoiseSums, Trained
from autobatch.scripts.process import ScriptEndedError
from autobatch.scripts.session import START_SECONDS, Session
from autobatch.scripts.trainings import training_of

ROUNDS, MIN_ROUNDS = 5, 3
# Steps so long are measured with fewer rounds: a budget holds few of them.
_SLOW_STEP_SECONDS = 0.5
_WARM_UP_STEPS = 2
# A round is that many steps at least, and that long; longer steps are rounds by themselves.
_ROUND_STEPS, _MOST_ROUND_STEPS, _ROUND_SECONDS, _LONG_STEP_SECONDS = 3, 100, 0.03, 0.1
_MOST_GRADIENTS, _FEWEST_GRADIENTS = 128, 16
# The noise scale rises early in training, so it is measured along a burn-in.
_MEASURE_AT = (0.25, 0.5, 1.0)
_EVALUATION_SECONDS = 10.0
# Processes for one size, as far as there is time.
_TRIES = 3
_HELD_OUT = "the training loss of each batch, before the step that it makes"
_NO_REPLY = "a script has no answer to this"


class ScriptEngine:
    """The engine of one `session`."""

    trainings_at_once = 1

    def __init__(self, command: Command, limits: Limits, scratch: Path, *, keeps_rate: bool = False) -> None:
        """`keeps_rate`: short trainings keep the script's learning rate, as the training to come will."""
        self.session = Session(command, limits, scratch)
        self.compile_seconds = 0.0
        self._command = command
        self._limits = limits
        self._keeps_rate = keeps_rate
        self._begin = time.monotonic()
        self._step_seconds: dict[int, float] = {}
        self._losses: dict[int, float] = {}
        self._snapshot = str(scratch / "tmp" / "first-weights.pt")
        self._has_snapshot = False

    def open(self) -> Opened:
        """Start the command and watch its first steps. Raises AutobatchError for what can't be measured."""
        self.session.open()
        observed = self.session.observed
        return Opened(
            device=description.device_of(observed, self._limits),
            workload=description.workload_of(self._command, observed, self.session.knob),
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
        return time.monotonic() - self._begin

    @busy_seconds.setter
    def busy_seconds(self, value: float) -> None:
        self._begin = time.monotonic() - value

    @property
    def sizes(self) -> SampleSizes | None:
        return None

    @property
    def fresh(self) -> bool:
        return self.session.fresh

    @property
    def is_summed(self) -> bool:
        """True where the loss grows with the batch size, as a sum over samples does."""
        sizes = sorted(size for size, loss in self._losses.items() if loss > 0)
        if len(sizes) < 2 or sizes[-1] < 2 * sizes[0]:
            return False
        ratio = self._losses[sizes[-1]] / self._losses[sizes[0]]
        return bool(ratio > (sizes[-1] / sizes[0]) ** 0.7)

    # Measurements

    def measure(self, size: int, seconds: float, rounds: int | None = None) -> Measured:
        """Rounds of steps at `size`, of the slowest rank. Raises ScriptEndedError.

        A script that ends meanwhile is started again, and so is one whose size doesn't change in place.
        """
        slow = self._expected_step_seconds(size) > _SLOW_STEP_SECONDS
        if rounds is None:
            rounds = MIN_ROUNDS if slow else ROUNDS
        for _ in range(_TRIES):
            results = self.session.ask(
                "measure",
                size,
                seconds,
                rounds=rounds,
                round_steps=self._round_steps(size),
                warm_up=1 if slow else _WARM_UP_STEPS,
            )
            measured = _slowest([msgspec.convert(result, Measured, strict=False) for result in results])
            if measured.round_seconds and (len(measured.round_seconds) >= rounds or not measured.ended):
                break
            if not measured.round_seconds and not measured.ended and self.session.in_place:
                self.session.give_up_in_place()
            if self.busy_seconds + self.session.start_seconds > self._limits.budget_seconds:
                break
        if not measured.round_seconds:
            why = f"no full batch of {size:,} came up in an epoch"
            raise ScriptEndedError(Outcome.FAILED, why)
        if self.session.in_place and size != self.session.current_size:
            self.session.proven.add(size)
        self._step_seconds[size] = sorted(measured.round_seconds)[len(measured.round_seconds) // 2]
        if measured.loss is not None:
            self._losses.setdefault(size, measured.loss)
        return measured

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

    def take_snapshot(self) -> None:
        """Save the weights that noise and trainings start from; those of Keras can't be put back."""
        if self.session.observed.is_torch:
            self.session.ask("save", self.session.current_size, START_SECONDS, snapshot=self._snapshot)
            self._has_snapshot = True

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> messages.Tried:
        """A few steps at a size and the script's own evaluation, or how they failed."""
        try:
            if not self.session.is_running:
                observed = self.session.start_at(batch_size)
                if observed.ended:
                    # The whole training at this size, with its evaluation, is the best proof that it fits.
                    return messages.Tried(batch_size=batch_size, outcome=Outcome.OK, steps=observed.steps)
            measured = self.measure(batch_size, seconds, rounds=1)
            self.session.evaluate(_EVALUATION_SECONDS)
        except ScriptEndedError as ended:
            return messages.Tried(batch_size=batch_size, outcome=ended.outcome, detail=ended.detail)
        return messages.Tried(
            batch_size=batch_size,
            outcome=Outcome.OK,
            step_seconds=min(measured.round_seconds),
            load_seconds=measured.load_seconds,
            peak_bytes=measured.peak_bytes,
            reserved_bytes=measured.reserved_bytes,
            steps=measured.steps,
            optimizer_steps=measured.steps,
        )

    def measure_loss_kind(self, command: messages.MeasureLossKind) -> messages.LossForm:
        """A sum, by the losses of the steps so far: a script can't repeat its samples."""
        return messages.LossForm(kind=LossKind.SUM if self.is_summed else LossKind.UNKNOWN)

    def measure_noise(self, command: messages.MeasureNoise) -> messages.Noise:
        """Gradients at frozen weights, at three points of a burn-in from the first weights on."""
        size = command.batch_size
        step_seconds = self._step_seconds.get(size, 1.0)
        burn_in = max(4, int(command.burn_in_seconds / step_seconds))
        count = max(_FEWEST_GRADIENTS, min(command.most_samples // size, _MOST_GRADIENTS))
        chunks: list[Chunks] = []
        after_steps: list[int] = []
        done = 0
        try:
            if self._has_snapshot:
                self.session.ask("restore", size, START_SECONDS, snapshot=self._snapshot)
            for share in _MEASURE_AT:
                steps = max(1, ceil(share * burn_in) - done)
                rounds = {"rounds": steps, "round_steps": 1, "warm_up": 0}
                limit = 4 * steps * step_seconds + command.seconds
                self.session.ask("measure", size, limit, **rounds)
                done += steps
                sums = self.session.ask(
                    "noise", size, limit, gradients=count, width=SKETCH_WIDTH, seed=self._limits.seed
                )
                measured = msgspec.convert(sums[0], NoiseSums, strict=False)
                if len(measured.squared_norms) >= FEWEST_CHUNKS:
                    after_steps.append(done)
                    chunks.append(
                        Chunks(
                            chunk_size=size * self.ranks,
                            squared_norms=tuple(measured.squared_norms),
                            inner_products=tuple(measured.inner_products),
                            sum_squared_norm=measured.sum_squared_norm,
                        )
                    )
        except ScriptEndedError as ended:
            error = ended.detail
        else:
            error = "" if chunks else "the script gave no gradients"
        return messages.Noise(
            measured=tuple(chunks), burn_in_steps=done, after_steps=tuple(after_steps), error=error
        )

    def train_all(self, commands: Sequence[messages.Train]) -> Sequence[messages.Trained]:
        """One short training after the other, each from the first weights."""
        return [self._train(command) for command in commands]

    def _train(self, command: messages.Train) -> messages.Trained:
        size = command.batch_size
        factor = 1.0 if self._keeps_rate else command.learning_rate_factor
        if not self._has_snapshot:
            return messages.Trained(training=None, held_out="the script's weights can't be put back")
        steps = max(1, int(command.seconds / self._step_seconds.get(size, inf)))
        summed = size / self.session.current_size if self.is_summed else 1.0
        try:
            results = self.session.ask(
                "train",
                size,
                4 * command.seconds + START_SECONDS,
                steps=steps,
                learning_rate_factor=factor,
                snapshot=self._snapshot,
            )
        except ScriptEndedError as ended:
            training = training_of(size, factor, [], [])
            return messages.Trained(
                training=replace(training, outcome=ended.outcome, detail=ended.detail), held_out=_HELD_OUT
            )
        trained = msgspec.convert(results[0], Trained, strict=False)
        losses = [None if loss is None else loss / summed for loss in trained.losses]
        return messages.Trained(
            training=training_of(size, factor, losses, trained.seconds), held_out=_HELD_OUT
        )

    def renew(self, *, worker: bool = False) -> None:
        """From now on a fresh process."""
        self.session.end()

    def close(self) -> None:
        """End all processes of the command."""
        self.session.end()

    # Questions of the engine protocol that only a model file can answer

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

    def take_fingerprint(self) -> messages.Fingerprint:
        return messages.Fingerprint(parts={}, detail=_NO_REPLY)

    def time_each(self, batch_size: int, seconds: float) -> list[float]:
        raise AutobatchError("a script is not timed rank by rank", code="not_timed_by_rank")

    def trace_memory(self, *, without_data: bool = False) -> messages.Traced:
        return messages.Traced(lines=(), detail=_NO_REPLY)

    def time_loader(self, command: messages.TimeLoader) -> messages.Loaded:
        return messages.Loaded(batch_seconds=None, detail=_NO_REPLY)


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

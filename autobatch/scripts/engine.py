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
from typing import Any

import msgspec

from autobatch.decision.constants import FEWEST_CHUNKS, SKETCH_WIDTH
from autobatch.decision.noise_scale import Chunks
from autobatch.devices import host
from autobatch.engines import messages as engine_messages
from autobatch.engines.base import Opened
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.records.workload import Decay, SampleSizes, Workload
from autobatch.scripts import refusals
from autobatch.scripts.command import Command
from autobatch.scripts.knob import Knob, epochs_of, find_knobs
from autobatch.scripts.messages import Measured, NoiseSums, Observation, Trained, device_of
from autobatch.scripts.process import ScriptEndedError, ScriptProcess
from autobatch.scripts.trainings import training_of

ROUNDS, MIN_ROUNDS = 5, 3
# Steps so long are measured with fewer rounds: a budget holds few of them.
_SLOW_STEP_SECONDS = 0.5
_WARM_UP_STEPS = 2
# A round is that many steps at least, and that long; longer steps are rounds by themselves.
_ROUND_STEPS, _MOST_ROUND_STEPS, _ROUND_SECONDS, _LONG_STEP_SECONDS = 3, 100, 0.03, 0.1
# A script that is through before has nothing to tune.
_FEWEST_STEPS = 10
# Until the first steps: imports, data sets, compilation.
_START_SECONDS = 300.0
_MOST_GRADIENTS, _FEWEST_GRADIENTS = 128, 16
# The noise scale rises early in training, so it is measured along a burn-in.
_MEASURE_AT = (0.25, 0.5, 1.0)
_EVALUATION_SECONDS = 10.0
# Processes for one size, as far as there is time.
_TRIES = 3
# What stands for a placeholder that names no current size.
_USUAL_SIZE = 32
_HELD_OUT = "the training loss of each batch, before the step that it makes"
_NO_REPLY = "a script has no answer to this"


class ScriptEngine:
    """One command at any batch size. `in_place` turns False for good where a loader keeps its size."""

    trainings_at_once = 1

    def __init__(self, command: Command, limits: Limits, scratch: Path, *, keeps_rate: bool = False) -> None:
        """`keeps_rate`: short trainings keep the script's learning rate, as the training to come will."""
        self._command = command
        self._limits = limits
        self._scratch = scratch
        self._keeps_rate = keeps_rate
        self._begin = time.monotonic()
        self._process: ScriptProcess | None = None
        self._size: int | None = None
        self._fresh = True
        self._knobs: tuple[Knob, ...] = ()
        self._dimension = 0
        self._step_seconds: dict[int, float] = {}
        self._losses: dict[int, float] = {}
        self._observed: Observation | None = None
        self._snapshot = str(scratch / "tmp" / "first-weights.pt")
        self._has_snapshot = False
        self.compile_seconds = 0.0
        self.in_place = False
        self.proven: set[int] = set()

    # What it has opened

    @property
    def observed(self) -> Observation:
        assert self._observed is not None, "the engine was not opened"
        return self._observed

    @property
    def knob(self) -> Knob:
        """The likeliest knob of those that have not failed."""
        return self._knobs[0]

    @property
    def unit(self) -> int:
        """Sizes are multiples of this: the micro batches of a step."""
        return self.observed.micro_batches

    @property
    def current_size(self) -> int:
        """The script's size as it is."""
        return self.knob.current * self.unit

    @property
    def _settling_steps(self) -> int | None:
        """Steps after which batches of another size have come through on all ranks."""
        if self.ranks == 1:
            return None
        workers = self.observed.loader.workers if self.observed.loader is not None else 0
        return 4 + 3 * workers

    @property
    def ranks(self) -> int:
        return self.observed.world_size

    @property
    def local_ranks(self) -> int:
        return self.observed.world_size

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
        return self._fresh

    @property
    def is_summed(self) -> bool:
        """True where the loss grows with the batch size, as a sum over samples does."""
        sizes = sorted(size for size, loss in self._losses.items() if loss > 0)
        if len(sizes) < 2 or sizes[-1] < 2 * sizes[0]:
            return False
        ratio = self._losses[sizes[-1]] / self._losses[sizes[0]]
        return bool(ratio > (sizes[-1] / sizes[0]) ** 0.7)

    def open(self) -> Opened:
        """Start the command and watch its first steps. Raises AutobatchError for what can't be measured."""
        filled = None
        if self._command.has_placeholder:
            filled = self._command.placeholder_size or _USUAL_SIZE
        begin = time.monotonic()
        observed = self._started(self._command.filled(filled or 0), None)
        self.start_seconds = time.monotonic() - begin
        if observed.constant_input and observed.loader is None:
            raise refusals.full_batch(observed)
        if observed.ended and observed.steps < _FEWEST_STEPS:
            raise refusals.too_few_steps(observed)
        self._knobs = find_knobs(self._command, observed, filled)
        if not self._knobs:
            raise refusals.no_knob(observed)
        self._observed = observed
        self._size = self.current_size
        self.in_place = observed.loader is not None and observed.loader.movable
        if observed.loader is None and self.knob.current in observed.shape:
            self._dimension = observed.shape.index(self.knob.current)
        if observed.ended:
            self._end_process()
        return Opened(
            device=device_of(observed.device, host.cpu_name(), *_memory_limit(self._limits, observed)),
            workload=self._workload(),
            torch=observed.torch,
            world_size=observed.world_size,
        )

    def _workload(self) -> Workload:
        observed, loader = self.observed, self.observed.loader
        size = self.current_size
        inferred = [
            f"step: {observed.optimizer}.step at {Path(observed.step_file).name}:{observed.step_line}"
        ]
        if self.unit > 1:
            inferred.append(f"{self.unit} micro batches a step")
        return Workload(
            target=self._command.text,
            model=observed.model,
            parameters=observed.parameters,
            loss="the script's",
            optimizer=observed.optimizer,
            learning_rate=observed.learning_rate,
            decays=tuple(Decay(name=name, value=value) for name, value in observed.decays.items()),
            dataset=loader.dataset if loader is not None else "",
            dataset_size=loader.dataset_size if loader is not None else None,
            batch_size=size,
            epochs=epochs_of(self._command, observed, self.knob.current),
            workers=loader.workers if loader is not None else None,
            precision=None,
            inferred=tuple(inferred),
        )

    # Processes

    def _started(self, command: Command, in_code: dict[str, object] | None) -> Observation:
        """The first steps of a new process. Raises AutobatchError where the script itself fails."""
        self._end_process()
        self._process = ScriptProcess(
            command, self._scratch, in_code=in_code, limit_bytes=self._limits.memory_bytes
        )
        self._fresh = True
        try:
            return self._process.observe(_START_SECONDS)
        except ScriptEndedError as ended:
            if self._observed is not None:
                raise
            raise refusals.script_fails(ended.detail, self._process.output) from ended

    def _start_at(self, size: int) -> Observation:
        """A new process that is proven to train at `size`. Drops knobs that have no effect."""
        micro = size // self.unit
        while True:
            knob = self.knob
            observed = self._started(knob.applied(self._command, micro), knob.in_code(micro))
            seen = self._seen_size(observed)
            if seen == micro:
                self._size = size
                if micro != knob.current:
                    self.proven.add(size)
                if observed.ended:
                    self._end_process()
                return observed
            self._end_process()
            if len(self._knobs) == 1:
                raise refusals.not_proven(seen, micro, knob.name)
            self._knobs = self._knobs[1:]

    def _seen_size(self, observed: Observation) -> int | None:
        if observed.loader is None and len(observed.shape) > self._dimension:
            return observed.shape[self._dimension]
        return observed.batch_size

    def _ask(self, what: str, size: int, seconds: float, **order: Any) -> list[dict[str, Any]]:
        """The results of all ranks for an order at `size`, started again where that is needed."""
        in_place = self.in_place and self._process is not None
        if self._process is None or (self._size != size and not in_place):
            observed = self._start_at(size)
            if observed.ended:
                why = f"the script ends after {observed.steps} steps at this size"
                raise ScriptEndedError(Outcome.FAILED, why)
        assert self._process is not None
        full = {
            "do": what,
            "batch_size": size // self.unit,
            "in_place": in_place,
            "dimension": self._dimension,
            "settle": self._settling_steps,
            **order,
        }
        try:
            results = self._process.ask(full, seconds)
        except ScriptEndedError:
            self._end_process()
            raise
        self._size, self._fresh = size, False
        if any(result.get("immovable") for result in results):
            self.in_place = False
            self._size = None
            return self._ask(what, size, seconds, **order)
        if any(result["ended"] for result in results):
            self._end_process()
        return results

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    # Measurements

    def measure(self, size: int, seconds: float, rounds: int | None = None) -> Measured:
        """Rounds of steps at `size`, of the slowest rank. Raises ScriptEndedError.

        A script that ends meanwhile is started again, and so is one whose size doesn't change in place.
        """
        slow = self._expected_step_seconds(size) > _SLOW_STEP_SECONDS
        if rounds is None:
            rounds = MIN_ROUNDS if slow else ROUNDS
        for _ in range(_TRIES):
            results = self._ask(
                "measure",
                size,
                seconds,
                rounds=rounds,
                round_steps=self._round_steps(size),
                warm_up=1 if slow else _WARM_UP_STEPS,
            )
            found = _slowest([msgspec.convert(result, Measured, strict=False) for result in results])
            if found.round_seconds and (len(found.round_seconds) >= rounds or not found.ended):
                break
            if not found.round_seconds and not found.ended and self.in_place:
                self.in_place = False
                self._size = None
            if self.busy_seconds + self.start_seconds > self._limits.budget_seconds:
                break
        if not found.round_seconds:
            why = f"no full batch of {size:,} came up in an epoch"
            raise ScriptEndedError(Outcome.FAILED, why)
        if self.in_place and size != self.current_size:
            self.proven.add(size)
        self._step_seconds[size] = sorted(found.round_seconds)[len(found.round_seconds) // 2]
        if found.loss is not None:
            self._losses.setdefault(size, found.loss)
        return found

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
        observed = self.observed.step_seconds
        return median(observed) if observed else 1.0

    def take_snapshot(self) -> None:
        """Save the weights that noise and trainings start from; those of Keras can't be put back."""
        if self.observed.is_torch:
            self._ask("save", self._size or self.current_size, _START_SECONDS, snapshot=self._snapshot)
            self._has_snapshot = True

    def try_out(
        self, batch_size: int, seconds: float, steps: int, *, sizes: tuple[int, ...] = ()
    ) -> engine_messages.Tried:
        """A few steps at a size and the script's own evaluation, or how they failed."""
        try:
            if self._process is None:
                observed = self._start_at(batch_size)
                if observed.ended:
                    # The whole training at this size, with its evaluation, is the best proof that it fits.
                    return engine_messages.Tried(
                        batch_size=batch_size, outcome=Outcome.OK, steps=observed.steps
                    )
            measured = self.measure(batch_size, seconds, rounds=1)
            self._evaluate()
        except ScriptEndedError as ended:
            return engine_messages.Tried(batch_size=batch_size, outcome=ended.outcome, detail=ended.detail)
        return engine_messages.Tried(
            batch_size=batch_size,
            outcome=Outcome.OK,
            step_seconds=min(measured.round_seconds),
            load_seconds=measured.load_seconds,
            peak_bytes=measured.peak_bytes,
            reserved_bytes=measured.reserved_bytes,
            steps=measured.steps,
            optimizer_steps=measured.steps,
        )

    def _evaluate(self) -> None:
        """Let the script evaluate, cut short; only memory that runs out in it counts against the size."""
        if self._process is None or self.observed.loader is None:
            return
        try:
            self._process.ask({"do": "evaluate", "dimension": self._dimension}, _EVALUATION_SECONDS)
        except ScriptEndedError as ended:
            if ended.outcome is Outcome.OUT_OF_MEMORY:
                raise
        self._end_process()

    def measure_noise(self, command: engine_messages.MeasureNoise) -> engine_messages.Noise:
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
                self._ask("restore", size, _START_SECONDS, snapshot=self._snapshot)
            for share in _MEASURE_AT:
                steps = max(1, ceil(share * burn_in) - done)
                rounds = {"rounds": steps, "round_steps": 1, "warm_up": 0}
                limit = 4 * steps * step_seconds + command.seconds
                self._ask("measure", size, limit, **rounds)
                done += steps
                sums = self._ask(
                    "noise", size, limit, gradients=count, width=SKETCH_WIDTH, seed=self._limits.seed
                )
                found = msgspec.convert(sums[0], NoiseSums, strict=False)
                if len(found.squared_norms) >= FEWEST_CHUNKS:
                    after_steps.append(done)
                    chunks.append(
                        Chunks(
                            chunk_size=size * self.ranks,
                            squared_norms=tuple(found.squared_norms),
                            inner_products=tuple(found.inner_products),
                            sum_squared_norm=found.sum_squared_norm,
                        )
                    )
        except ScriptEndedError as ended:
            error = ended.detail
        else:
            error = "" if chunks else "the script gave no gradients"
        return engine_messages.Noise(
            measured=tuple(chunks), burn_in_steps=done, after_steps=tuple(after_steps), error=error
        )

    def train_all(self, commands: Sequence[engine_messages.Train]) -> Sequence[engine_messages.Trained]:
        """One short training after the other, each from the first weights."""
        return [self._train(command) for command in commands]

    def _train(self, command: engine_messages.Train) -> engine_messages.Trained:
        size = command.batch_size
        factor = 1.0 if self._keeps_rate else command.learning_rate_factor
        if not self._has_snapshot:
            return engine_messages.Trained(training=None, held_out="the script's weights can't be put back")
        steps = max(1, int(command.seconds / self._step_seconds.get(size, inf)))
        # The gradient of a sum grows with the batch, which plain SGD follows.
        summed = size / self.current_size if self.is_summed else 1.0
        try:
            results = self._ask(
                "train",
                size,
                4 * command.seconds + _START_SECONDS,
                steps=steps,
                learning_rate_factor=factor / summed if self.observed.optimizer == "SGD" else factor,
                snapshot=self._snapshot,
            )
        except ScriptEndedError as ended:
            training = training_of(size, factor, [], [])
            return engine_messages.Trained(
                training=replace(training, outcome=ended.outcome, detail=ended.detail), held_out=_HELD_OUT
            )
        found = msgspec.convert(results[0], Trained, strict=False)
        losses = [None if loss is None else loss / summed for loss in found.losses]
        return engine_messages.Trained(
            training=training_of(size, factor, losses, found.seconds), held_out=_HELD_OUT
        )

    def renew(self, *, worker: bool = False) -> None:
        """From now on a fresh process."""
        self._end_process()

    def close(self) -> None:
        """End all processes of the command."""
        self._end_process()

    def prepare(self) -> None:
        """Nothing to start ahead: a command starts when a size is known."""

    # What only models of autobatch's own process can answer

    def time_round(
        self, batch_size: int, seconds: float, *, alone: bool = False, sizes: tuple[int, ...] = ()
    ) -> engine_messages.Timed | engine_messages.Tried:
        """One round; a script has no step without its communication, and one size for all ranks."""
        try:
            measured = self.measure(batch_size, seconds, rounds=1)
        except ScriptEndedError as ended:
            return engine_messages.Tried(batch_size=batch_size, outcome=ended.outcome, detail=ended.detail)
        return engine_messages.Timed(
            batch_size=batch_size,
            step_seconds=measured.round_seconds[0],
            load_seconds=measured.load_seconds,
            utilisation=None,
            steps=measured.steps,
            optimizer_steps=measured.steps,
        )

    def take_fingerprint(self) -> engine_messages.Fingerprint:
        return engine_messages.Fingerprint(parts={}, detail=_NO_REPLY)

    def time_each(self, batch_size: int, seconds: float) -> list[float]:
        raise AutobatchError("a script is not timed rank by rank", code="not_timed_by_rank")

    def trace_memory(self, *, without_data: bool = False) -> engine_messages.Traced:
        return engine_messages.Traced(lines=(), detail=_NO_REPLY)

    def time_loader(self, command: engine_messages.TimeLoader) -> engine_messages.Loaded:
        return engine_messages.Loaded(batch_seconds=None, detail=_NO_REPLY)


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


def _memory_limit(limits: Limits, observed: Observation) -> tuple[int | None, str]:
    """What training may take on the device, and what sets that."""
    if limits.memory_bytes is not None:
        return int(limits.memory_fraction * limits.memory_bytes), "`--memory-limit`"
    if observed.device.kind == "cpu":
        available = host.default_limit(host.read_memory())
        return int(limits.memory_fraction * available), "80% of what is available"
    free = observed.device.free_bytes
    return (None if free is None else int(limits.memory_fraction * free)), "free memory"

"""One command and its running process: started at a size, proven to train with it, and asked at its steps.

Sizes count the samples of one optimizer step on one rank, over all its micro batches.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.scripts import refusals
from autobatch.scripts.command import Command
from autobatch.scripts.knob import Knob, KnobKind, Split, find_knobs, find_steps_flags, with_split
from autobatch.scripts.messages import Observation
from autobatch.scripts.process import FIRST_STEPS, ScriptEndedError, ScriptProcess

# Enough steps to see the size, where the rest is known. A script that ends before has nothing to tune.
_FEWEST_STEPS = 4
# Until the first steps: imports, data sets, compilation.
START_SECONDS = 300.0
# A step that is under way when the time of an order ends is awaited so long.
_GRACE_SECONDS = 60.0
# A placeholder that names no current size gets this one.
_USUAL_SIZE = 32
# Steps after which all ranks have batches of a new size: frameworks fetch some ahead.
_SETTLING_STEPS = 4


class Session:
    """The process of a command at some size, or none. `in_place` is False once a loader has kept its size.

    `proven`: sizes other than the script's own that its steps had when they were set.
    """

    def __init__(self, command: Command, limits: Limits, scratch: Path, *, contended: bool = False) -> None:
        """`contended`: other processes keep the processors busy."""
        self._command = command
        self._limits = limits
        self._scratch = scratch
        # Threads that spin while they wait take the processor from those that work.
        self._variables = {"OMP_WAIT_POLICY": "PASSIVE"} if contended else {}
        self._process: ScriptProcess | None = None
        self._size: int | None = None
        self._knobs: tuple[Knob, ...] = ()
        self._knob_is_proven = False
        self._dimension = 0
        self._split: Split | None = None
        self._observed: Observation | None = None
        self._started: Observation | None = None
        self._output: tuple[str, ...] = ()
        self.in_place = False
        self.fresh = True
        self.start_seconds = 0.0
        self.starts = 0
        self.proven: set[int] = set()

    @property
    def observed(self) -> Observation:
        """The first steps of the script as it is."""
        assert self._observed is not None, "the session was not opened"
        return self._observed

    @property
    def started(self) -> Observation:
        """The first steps of the latest process."""
        assert self._started is not None, "the session was not opened"
        return self._started

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def knob(self) -> Knob:
        """The likeliest knob of those that have not failed."""
        return self._knobs[0]

    @property
    def unit(self) -> int:
        """Sizes are multiples of this: the micro batches of a step."""
        return self.observed.micro_batches if self._split is None else self._split.steps

    @property
    def current_size(self) -> int:
        """The script's size as it is."""
        return self.knob.current * self.observed.micro_batches

    @property
    def steps_flags(self) -> tuple[str, ...]:
        """The flag of the accumulation steps; empty where none sets them apart from the size."""
        return find_steps_flags(self._command, self.observed) if self.knob.multiple == 1 else ()

    def open(self) -> None:
        """Start the command and watch its first steps. Raises AutobatchError for what can't be measured."""
        filled = None
        if self._command.has_placeholder:
            filled = self._command.placeholder_size or _USUAL_SIZE
        command = self._command.filled(filled or 0)
        try:
            observed = self._start(command, None, FIRST_STEPS)
            if observed.ended and observed.loader is not None and observed.steps > _FEWEST_STEPS:
                # So short a script is stopped before its end, and its epoch is repeated from there.
                observed = self._start(command, None, _FEWEST_STEPS)
        except ScriptEndedError as ended:
            if ended.outcome is Outcome.TIMEOUT:
                raise refusals.slow_start(START_SECONDS, self._output) from ended
            raise refusals.script_fails(ended.detail, self._output) from ended
        if observed.constant_input and observed.loader is None:
            raise refusals.full_batch(observed)
        if observed.ended:
            raise refusals.too_few_steps(observed)
        self._knobs = find_knobs(self._command, observed, filled)
        if not self._knobs:
            raise refusals.no_knob(observed)
        self._observed = observed
        self._size = self.current_size
        # A flag may set the size of several loaders, of which one alone would change in place.
        sets_others = observed.other_fetches > 0 and self.knob.kind is not KnobKind.LOADER
        self.in_place = observed.loader is not None and observed.loader.movable and not sets_others
        if observed.loader is None and self.knob.current in observed.shape:
            self._dimension = observed.shape.index(self.knob.current)

    def start_at(self, size: int) -> Observation:
        """Start a new process that is proven to train at `size`. Drops knobs that have no effect.

        Raises ScriptEndedError where the script fails at it, AutobatchError where no knob has an effect.
        """
        micro = size // self.unit
        while True:
            knob = self.knob
            is_last = self._knob_is_proven or len(self._knobs) == 1
            try:
                command = knob.applied(self._command, micro)
                observed = self._start(command, knob.in_code(micro), _FEWEST_STEPS)
            except ScriptEndedError as ended:
                # Options that a script does not know end it.
                if is_last or ended.outcome is not Outcome.FAILED:
                    raise
                seen = None
            else:
                seen = self._seen_size(observed, micro)
                # A knob that trades micro batches for larger ones leaves the step as it is.
                if seen == micro and self.unit in (1, observed.micro_batches):
                    self._size = size
                    if micro != knob.current:
                        self._knob_is_proven = True
                        self.proven.add(size)
                    if observed.ended:
                        self.end()
                    return observed
            self.end()
            if is_last:
                raise refusals.not_proven(seen, micro, knob.name)
            self._knobs = self._knobs[1:]

    def starts_for(self, size: int) -> bool:
        """True where an order at `size` takes another start of the command."""
        return self._process is None or (self._size != size and not self.in_place)

    def first_steps(self, size: int) -> Observation | None:
        """The first steps of a process at `size`, started where that is needed; None after an order to it.

        Raises as `start_at` does, and ScriptEndedError for a script that ends within them.
        """
        self._start_for(size)
        if self._size != size or not self.fresh:
            return None
        self.fresh = False
        return self.started

    def _start_for(self, size: int) -> None:
        """Start a process for an order at `size` where that is needed."""
        if self.starts_for(size):
            observed = self.start_at(size)
            if observed.ended:
                why = f"the script ends after {observed.steps} steps at this size"
                raise ScriptEndedError(Outcome.FAILED, why)

    def start_split(self, split: Split) -> bool:
        """Start a new process with other accumulation steps; False where its steps don't show them.

        Raises ScriptEndedError where the script fails. `unit` is that of the split until the process ends.
        """
        command = with_split(self._command, self.knob, self.steps_flags, split)
        observed = self._start(command, self.knob.in_code(split.micro_batch), _FEWEST_STEPS)
        self._split, self._size = split, split.batch_size
        same_steps = observed.micro_batches == split.steps and not observed.ended
        return same_steps and self._seen_size(observed, split.micro_batch) == split.micro_batch

    def ask(self, what: str, size: int, seconds: float, **order: Any) -> list[dict[str, Any]]:
        """The results of all ranks for an order at `size`, in a new process where that is needed.

        Raises ScriptEndedError where the script ends, fails or takes longer than `seconds`.
        """
        in_place = self.in_place and self._process is not None
        self._start_for(size)
        assert self._process is not None
        full = {
            "do": what,
            "batch_size": size // self.unit,
            "in_place": in_place,
            "dimension": self._dimension,
            "settle": self._settling_steps,
            "seconds": seconds,
            **order,
        }
        try:
            results = self._process.ask(full, seconds + _GRACE_SECONDS)
        except ScriptEndedError:
            self.end()
            raise
        self._size, self.fresh = size, False
        if any(result.get("immovable") for result in results):
            self.give_up_in_place()
            return self.ask(what, size, seconds, **order)
        if any(result["ended"] for result in results):
            self.end()
        return results

    def give_up_in_place(self) -> None:
        """From now on another size takes another process."""
        self.in_place = False
        self._size = None

    def evaluate(self, seconds: float) -> None:
        """Cut the epoch, so that the script's own evaluation comes, and end the process.

        Only memory that runs out in it is raised: a loop that was cut may fail otherwise.
        """
        if self._process is None or self.observed.loader is None:
            return
        try:
            self._process.ask({"do": "evaluate"}, seconds)
        except ScriptEndedError as ended:
            if ended.outcome is Outcome.OUT_OF_MEMORY:
                raise
        finally:
            self.end()

    def end(self) -> None:
        """End all processes of the command. The next order starts it again."""
        if self._process is not None:
            self._process.close()
            self._process = None
            self._split = None

    def _start(self, command: Command, in_code: dict[str, object] | None, steps: int) -> Observation:
        """The first `steps` of a new process."""
        self.end()
        begin = time.monotonic()
        self._process = ScriptProcess(
            command,
            self._scratch,
            in_code=in_code,
            limit_bytes=self._limits.memory_bytes,
            steps=steps,
            variables=self._variables,
        )
        self.fresh = True
        try:
            self._started = self._process.observe(START_SECONDS)
        except (AutobatchError, ScriptEndedError):
            self._output = self._process.output
            self.end()
            raise
        self.starts += 1
        self.start_seconds = time.monotonic() - begin
        return self._started

    def _seen_size(self, observed: Observation, wanted: int) -> int | None:
        if observed.loader is None and len(observed.shape) > self._dimension:
            return observed.shape[self._dimension]
        # In a short epoch, the last batch may be as frequent as full ones.
        return wanted if wanted in observed.sizes else observed.batch_size

    @property
    def _settling_steps(self) -> int | None:
        """Steps of ranks after a change of size; None for a process alone, which sees its batches change."""
        return None if self.observed.world_size == 1 else _SETTLING_STEPS

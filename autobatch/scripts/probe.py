"""A training command measured as it is: the curve, the generalization check, the answer, its application."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autobatch.engines.opening import is_contended
from autobatch.measurement.budget import Budget
from autobatch.measurement.check import GeneralizationCheck
from autobatch.measurement.climb import Observer
from autobatch.measurement.confirmation import confirm
from autobatch.measurement.pipeline import Watch
from autobatch.records.check import Check
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Curve
from autobatch.scripts import scratch
from autobatch.scripts.application import Application, application, split_application
from autobatch.scripts.command import Command
from autobatch.scripts.engine import ScriptEngine
from autobatch.scripts.knob import rate_flags
from autobatch.scripts.session import Session
from autobatch.scripts.splits import FasterSplit, faster_split
from autobatch.scripts.sweep import Sweep
from autobatch.storage.journal import Journal

# Starts of a command that a budget has to hold: the first steps, the confirmation, and two for measurements.
_STARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptAnswer:
    """The recommendation for a command, and how to apply it.

    `same_batch_size`: the script's batch size in faster micro batches, where the answer is another size.
    `files`: all that the answer depends on: sources, packages, and the data that was read.
    """

    recommendation: Recommendation
    application: Application
    same_batch_size: Application | None
    proven: bool
    knob: str
    files: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """How to apply the answer, one fact a line; the batch size that stays the same comes first."""
        first = () if self.same_batch_size is None else self.same_batch_size.lines
        return (*first, *self.application.lines)

    @property
    def facts(self) -> dict[str, object]:
        """The application for programs."""
        change, same = self.application.change, self.same_batch_size
        return {
            "command": list(self.application.command.words),
            "variables": list(self.application.command.variables),
            "knob": self.knob,
            "proven": self.proven,
            "file": None if change is None else change[0],
            "line": None if change is None else change[1],
            "same_batch_size": None
            if same is None
            else {"command": list(same.command.words), "note": same.note},
        }


def probe_command(
    command: Command,
    limits: Limits,
    observer: Observer,
    *,
    epochs: float | None = None,
) -> ScriptAnswer:
    """Measure a command. Raises AutobatchError for one that can't be measured, by name.

    `epochs`: decide for so many, in place of those that the script shows. Raises Interrupted on Ctrl-C, with
    the records so far.
    """
    watch = Watch(observer, limits, Journal())
    contended = is_contended(None)
    with (
        scratch.scratch_folder() as folder,
        contextlib.closing(
            ScriptEngine(command, limits, folder, epochs=epochs, contended=contended)
        ) as engine,
    ):
        search = ScriptSearch(engine, limits, watch)
        try:
            curve, check = search.run()
        except KeyboardInterrupt:
            raise search.interrupted(contended=contended) from None
        answer = watch.answer(curve, check, contended=contended)
        read = scratch.reads(folder)
    watch.finished()
    return _answered(command, engine.session, search.split, answer, read)


def _answered(
    command: Command,
    session: Session,
    split: FasterSplit | None,
    answer: Recommendation,
    read: Sequence[str],
) -> ScriptAnswer:
    flags = () if answer.limits.keep_learning_rate else rate_flags(session.observed)
    applied = application(command, session.knob, session.unit, flags, answer)
    same = None if split is None else split_application(command, session.knob, session.steps_flags, split)
    if same is not None and answer.batch_size == session.current_size:
        applied, same = same, None
    return ScriptAnswer(
        recommendation=answer,
        application=applied,
        same_batch_size=same,
        proven=bool(session.proven),
        knob=session.knob.name,
        files=(*session.observed.sources, *session.observed.packages, *read),
    )


class ScriptSearch:
    """The stages of a command's measurement. `split`: a faster way to take the same samples a step."""

    def __init__(self, engine: ScriptEngine, limits: Limits, watch: Watch) -> None:
        self._engine = engine
        self._limits = limits
        self._watch = watch
        self._sweep: Sweep | None = None
        self._check: GeneralizationCheck | None = None
        self.split: FasterSplit | None = None

    def run(self) -> tuple[Curve, Check | None]:
        """Everything that is measured, in this order."""
        with _files_compared() as changed:
            self._watch.checking("starting the command")
            opened = self._engine.open()
            self._watch.opened(opened)
            self._sweep = Sweep(self._engine, opened, self._limits, self._watch)
            curve = self._sweep.run()
            check = self._run_check(curve)
            self.split = faster_split(self._engine, curve, self._watch.checking)
            curve = self._confirm(curve, check)
            self._engine.close()
        notes = (*_warnings(self._engine), *_short_of_time(self._engine, curve), *changed)
        return replace(curve, warnings=(*curve.warnings, *notes)), check

    def interrupted(self, *, contended: bool) -> Interrupted:
        """The exception for Ctrl-C: the records so far, and the answer that follows from them."""
        curve = None if self._sweep is None else self._sweep.partial_curve()
        check = None if self._check is None else self._check.check
        interrupted = Interrupted(curve, check)
        if curve is not None:
            interrupted.recommendation = self._watch.answer(curve, check, contended=contended)
        return interrupted

    def _run_check(self, curve: Curve) -> Check | None:
        """The generalization check, in the time that the confirmation leaves."""
        if not self._limits.check:
            return None
        engine = self._engine
        # Of a script that has to be started again, the noise at its own size takes a start.
        session, end_seconds = engine.session, engine.schedule.end_seconds
        if session.starts_for(session.current_size):
            end_seconds -= session.start_seconds
        if session.steps_flags:
            # For a process with other micro batches.
            end_seconds -= engine.schedule.another_start_seconds
        stage = Budget(end_seconds, lambda: engine.busy_seconds)
        self._check = GeneralizationCheck(engine, curve, self._limits, stage, self._watch.checking)
        return self._check.run()

    def _confirm(self, curve: Curve, check: Check | None) -> Curve:
        if not self._engine.schedule.confirms:
            note = "the command takes too long to start for a confirmation in a fresh process; raise --budget"
            return replace(curve, warnings=(*curve.warnings, note))
        self._watch.checking("confirming the answer in a fresh process")
        return confirm(self._engine, curve, check, self._limits, Budget.of(self._limits, self._engine))


@contextlib.contextmanager
def _files_compared() -> Iterator[list[str]]:
    """A list that has a warning after the block where files of the working folder have changed in it."""
    warnings: list[str] = []
    before = scratch.listing(Path.cwd())
    yield warnings
    changed = scratch.changes(before, scratch.listing(Path.cwd()))
    if changed:
        names = ", ".join(f"`{name}`" for name in changed[:5])
        warnings.append(f"files changed during the measurement: {names}")


def _short_of_time(engine: ScriptEngine, curve: Curve) -> tuple[str, ...]:
    """The warning for a budget that the starts of the command have used up."""
    if len({trial.batch_size for trial in curve.trials}) > 1:
        return ()
    start_seconds = engine.session.start_seconds
    return (
        f"only the current batch size was measured: the command takes {start_seconds:.0f} s to start. "
        f"Raise --budget to {_STARTS * start_seconds:.0f}s or more",
    )


def _warnings(engine: ScriptEngine) -> tuple[str, ...]:
    """What a user of the answer has to know about how the script trains."""
    notes = []
    observed, unit = engine.session.observed, engine.session.unit
    if unit > 1:
        notes.append(
            f"sizes count the {unit} micro batches of a step together; the script's own setting is "
            f"{unit} times smaller"
        )
    if len(observed.optimizers) > 1 and engine.noisy_optimizer:
        names = ", ".join(observed.optimizers)
        notes.append(f"several optimizers step ({names}); the gradient noise is the smallest of theirs")
    if observed.losses_apart > 1:
        notes.append("the optimizers train against each other: no short trainings were compared")
    return tuple(notes)

"""A training command measured as it is: the curve, the generalization check, the answer, its application."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from autobatch._version import __version__
from autobatch.decision.recommender import recommend
from autobatch.devices import host
from autobatch.engines.base import Opened
from autobatch.measurement.budget import Budget
from autobatch.measurement.check import GeneralizationCheck
from autobatch.measurement.confirmation import confirm
from autobatch.records.check import Check
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Environment, Recommendation
from autobatch.records.trial import Curve, Trial
from autobatch.scripts import scratch
from autobatch.scripts.application import Application, application
from autobatch.scripts.command import Command
from autobatch.scripts.engine import ScriptEngine
from autobatch.scripts.knob import rate_flags
from autobatch.scripts.sweep import Sweep

# Kept for the confirmation in a fresh process, beside the time that the command takes to start.
_CONFIRMATION_SECONDS = 2.0
_LEAST_CHECK_SECONDS = 3.0


class Observer(Protocol):
    """Hears how a measurement goes on."""

    def opened(self, opened: Opened) -> None: ...
    def tried(self, trial: Trial) -> None: ...
    def checking(self, what: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptAnswer:
    """The recommendation for a command, and how to apply it. `sources`: the user's files that were imported.

    `in_code`: what a started process has to change in the code; None where the command says it all.
    """

    recommendation: Recommendation
    application: Application
    in_code: dict[str, object] | None
    proven: bool
    knob: str
    sources: tuple[str, ...]

    @property
    def facts(self) -> dict[str, object]:
        """The application for programs."""
        change = self.application.change
        return {
            "command": list(self.application.command.words),
            "variables": list(self.application.command.variables),
            "knob": self.knob,
            "proven": self.proven,
            "file": None if change is None else change[0],
            "line": None if change is None else change[1],
        }


def probe_command(
    command: Command, limits: Limits, observer: Observer, *, keeps_rate: bool = False
) -> ScriptAnswer:
    """Measure a command. Raises AutobatchError for one that can't be measured, by name.

    `keeps_rate`: decide for a training that keeps the script's own learning rate.
    """
    started_at, begin = datetime.now(UTC), time.monotonic()
    before = scratch.listing(Path.cwd())
    with (
        scratch.scratch_folder() as folder,
        contextlib.closing(ScriptEngine(command, limits, folder, keeps_rate=keeps_rate)) as engine,
    ):
        observer.checking("starting the command")
        opened = engine.open()
        observer.opened(opened)
        curve = Sweep(engine, opened, limits, observer.checking, observer.tried).run()
        check = _check(engine, curve, limits, observer.checking)
        observer.checking("confirming the answer in a fresh process")
        curve = confirm(engine, curve, check, limits, Budget.of(limits, engine))
        curve = replace(curve, warnings=(*curve.warnings, *_warnings(engine)))
    changed = scratch.changes(before, scratch.listing(Path.cwd()))
    if changed:
        names = ", ".join(f"`{name}`" for name in changed[:5])
        note = f"files changed during the measurement: {names}"
        curve = replace(curve, warnings=(*curve.warnings, note))
    environment = Environment(
        autobatch=__version__,
        python=platform.python_version(),
        torch=opened.torch,
        platform=platform.platform(),
        cpu=host.cpu_name(),
        started_at=started_at.isoformat(timespec="seconds"),
        elapsed_seconds=round(time.monotonic() - begin, 3),
    )
    answer = replace(recommend(curve, check, limits), environment=environment)
    return _answered(command, engine, answer, () if keeps_rate else rate_flags(engine.session.observed))


def _check(engine: ScriptEngine, curve: Curve, limits: Limits, tell: Callable[[str], None]) -> Check | None:
    """The generalization check, in the time that the confirmation leaves."""
    if not limits.check:
        return None
    left = limits.budget_seconds - engine.session.start_seconds - _CONFIRMATION_SECONDS
    seconds = max(left, engine.busy_seconds + _LEAST_CHECK_SECONDS)
    stage = Budget(seconds, lambda: engine.busy_seconds)
    return GeneralizationCheck(engine, curve, limits, stage, tell).run()


def _warnings(engine: ScriptEngine) -> tuple[str, ...]:
    """What a user of the answer has to know about how the script trains."""
    notes = []
    unit = engine.session.unit
    if unit > 1:
        notes.append(
            f"sizes count the {unit} micro batches of a step together; the script's own setting is "
            f"{unit} times smaller"
        )
    if len(engine.session.observed.optimizers) > 1:
        names = ", ".join(engine.session.observed.optimizers)
        notes.append(f"several optimizers step ({names}); the gradient noise is that of the first")
    return tuple(notes)


def _answered(
    command: Command, engine: ScriptEngine, answer: Recommendation, flags: tuple[str, ...]
) -> ScriptAnswer:
    micro = answer.batch_size // engine.session.unit
    return ScriptAnswer(
        recommendation=answer,
        application=application(command, engine.session.knob, engine.session.unit, flags, answer),
        in_code=engine.session.knob.in_code(micro),
        proven=bool(engine.session.proven),
        knob=engine.session.knob.name,
        sources=tuple(engine.session.observed.sources),
    )

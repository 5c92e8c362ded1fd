"""Tries of sizes as trials. An error counts only where it comes in a fresh process too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autobatch.devices.oom import Cause
from autobatch.engines import messages
from autobatch.engines.base import Engine
from autobatch.engines.messages import CONFIRM_STEPS
from autobatch.measurement import diagnosis, trials
from autobatch.records.errors import AutobatchError
from autobatch.records.trial import Outcome, Trial


class Attempts:
    """All tries of a search.

    `passed`: the trial of each size that passed, as it was tried, without rounds. `first_error`: the error of
    the first size that failed by an error. `dataset_size`: the samples of an epoch of one rank; None if
    unknown. `isolated`: the training keeps state that can't be put back, so that every try needs a fresh
    process. `grown_bytes`: memory that each step added, by the batch size of long tries.
    """

    def __init__(self, engine: Engine, warn: Callable[[str], None]) -> None:
        """`warn` hears of each warning."""
        self._engine = engine
        self.warn = warn
        self.passed: dict[int, Trial] = {}
        self.first_error: AutobatchError | None = None
        self.dataset_size: int | None = None
        self.isolated = False
        self.grown_bytes: dict[int, int] = {}

    def attempt(self, size: int, seconds: float, steps: int, largest_passed: int | None) -> Trial | None:
        """A try as a trial; None where a stream ended below the size, which is then the data set's.

        As many steps as a confirmation takes are one, in a fresh process.
        """
        if self.isolated and not self._engine.fresh:
            self._engine.renew()
        fresh = self._engine.fresh
        tried = self._try_out(size, seconds, steps)
        if not fresh and diagnosis.may_be_of_state(tried):
            detail = tried.detail
            self._engine.renew()
            tried = self._try_out(size, seconds, steps)
            if tried.outcome is Outcome.OK:
                self.isolate(size, detail)
        if tried.error is not None and tried.error.code == "stream_ended":
            self.dataset_size = int(tried.detail)
            return None
        if tried.outcome is Outcome.OK:
            self._notice(tried)
        trial = self.trial_of(tried, largest_passed)
        trial = replace(trial, confirmed=trial.ok and fresh and steps >= CONFIRM_STEPS)
        if trial.ok:
            self.passed[size] = trial
        return trial

    def isolate(self, size: int, detail: str) -> None:
        """Runs every further try in a fresh process: only there the size passed. `detail`: its error."""
        self.isolated = True
        self.warn(diagnosis.needs_fresh_processes(size, detail))

    def trial_of(self, tried: messages.Tried, largest_passed: int | None) -> Trial:
        """The trial of a try or of a failed round, with the outcome by the cause of a failure."""
        outcome = tried.outcome
        if outcome is Outcome.FAILED:
            above = largest_passed is not None and largest_passed < tried.batch_size
            if tried.cause is Cause.SUSPECTED and above:
                outcome = Outcome.OUT_OF_MEMORY
            elif self.first_error is None and tried.error is not None:
                self.first_error = tried.error.rebuilt()
        return trials.from_try(tried, outcome, self.dataset_size)

    def retimed(self, trial: Trial, rounds: list[messages.Timed], last: int = 0) -> Trial:
        """The trial with the times of its rounds, or of its `last` ones."""
        timed = trials.from_rounds(self.passed[trial.batch_size], rounds, self.dataset_size, last)
        return replace(timed, gain=trial.gain)

    def _try_out(self, size: int, seconds: float, steps: int) -> messages.Tried:
        return diagnosis.checked(self._engine.try_out(size, seconds, steps))

    def _notice(self, tried: messages.Tried) -> None:
        """Keeps the facts of steps that passed which are no part of a trial."""
        if tried.optimizer_steps + tried.skipped_steps < tried.steps:
            self.warn("the training step does not step its optimizer every time: peak memory may come later")
        if tried.kept_state:
            self.warn(diagnosis.keeps_state(tried.kept_state))
        if tried.grown_bytes is not None:
            self.grown_bytes[tried.batch_size] = tried.grown_bytes

"""Pure: the end of a worker as a trial's outcome or as an error."""

from __future__ import annotations

import signal

from autobatch.devices.oom import Cause
from autobatch.engines import messages
from autobatch.engines.worker_errors import (
    WorkerDiedError,
    WorkerEndedError,
    WorkerHungError,
    WorkerStoppedError,
    WorkerTookTooMuchError,
)
from autobatch.engines.worker_process import COMPILE_TRIALS
from autobatch.records.check import LossKind, Training
from autobatch.records.errors import AutobatchError, TargetError
from autobatch.records.trial import Outcome
from autobatch.records.workload import Workload
from autobatch.workload import compilation

# The start of a session (import, data set, model) may take as long as that many trials.
START_TRIALS = 5
_OUT_OF_HOST_MEMORY = -9
# The code of an error that another rank has caused.
RANK_FAILED = "rank_failed"


def of_training(command: messages.Train, detail: str, *, by_peer: bool = False) -> messages.Trained:
    """The outcome of a training whose process did not survive it."""
    ended = Training(
        batch_size=command.batch_size,
        learning_rate_factor=command.learning_rate_factor,
        outcome=Outcome.CRASHED,
        steps=0,
        seconds=0.0,
        detail=detail,
    )
    return messages.Trained(training=ended, held_out="", by_peer=by_peer)


def of_trial(
    command: messages.TryOut | messages.TimeRound,
    end: WorkerEndedError,
    timeout_seconds: float,
) -> messages.Tried:
    """The outcome of a try or a round whose process did not survive it."""
    batch_size = command.batch_size
    # A round reports no phases: that would take longer than some of its steps.
    phase = "timing" if isinstance(command, messages.TimeRound) else end.phase
    if isinstance(end, WorkerHungError):
        # A round reports its compiling only.
        compiles = end.phase == compilation.BEGINS
        limit = (
            f"{COMPILE_TRIALS * timeout_seconds:g} s of compiling" if compiles else f"{timeout_seconds:g} s"
        )
        return messages.Tried(
            batch_size=batch_size,
            outcome=Outcome.TIMEOUT,
            phase=end.phase if compiles else phase,
            detail=f"no end after {limit}",
        )
    if isinstance(end, WorkerTookTooMuchError):
        return messages.Tried(
            batch_size=batch_size,
            outcome=Outcome.OUT_OF_MEMORY,
            phase=phase,
            detail="the watchdog stopped it above the memory limit",
            cause=Cause.OUT_OF_MEMORY,
        )
    if isinstance(end, WorkerStoppedError):
        return messages.Tried(
            batch_size=batch_size, outcome=Outcome.FAILED, phase=phase, detail=str(end), cause=Cause.PEER
        )
    assert isinstance(end, WorkerDiedError)
    how = _signal_name(end.status)
    detail = f"killed by {how}" if end.status < 0 else f"the process ended with {how}"
    if end.status == _OUT_OF_HOST_MEMORY:
        detail += " (by the system if the machine ran out of memory)"
    return messages.Tried(batch_size=batch_size, outcome=Outcome.CRASHED, phase=phase, detail=detail)


def is_without_result(reply: messages.Reply) -> bool:
    """True for a loss whose kind is unknown, and for no noise: a fresh session may have a result."""
    if isinstance(reply, messages.LossForm):
        return reply.kind is LossKind.UNKNOWN
    return isinstance(reply, messages.Noise) and not reply.measured


def start_failed(recipe: messages.Recipe, end: WorkerEndedError, start_seconds: float) -> AutobatchError:
    """The error for a session that did not come up."""
    if isinstance(end, WorkerStoppedError):
        return rank_failed(str(end))
    name = f"`{recipe.target}`" if recipe.target else "the model"
    hint = f"run `python {recipe.target}` to see what happens" if recipe.target.endswith(".py") else ""
    if isinstance(end, WorkerHungError) and end.phase:
        event, fact = "took too long", f"no answer after {start_seconds:g} s, {START_TRIALS} trial timeouts"
        hint = "if it needs that long, raise `--trial-timeout`"
    elif isinstance(end, WorkerHungError):
        event, fact = "did not come up", "no answer after minutes"
    elif isinstance(end, WorkerDiedError):
        event = "died"
        how = _signal_name(end.status)
        fact = f"killed by {how}" if end.status < 0 else f"it ended with {how}"
    else:
        event, fact = "took more memory than it may", str(end)
    return TargetError(
        f"the worker process {event} while it prepared {name}",
        code="start_timeout" if isinstance(end, WorkerHungError) else "worker_died",
        facts=(fact, f"in the {end.phase or 'start'} phase"),
        hint=hint,
    )


def rank_failed(detail: str) -> AutobatchError:
    """The error for work that another rank has ended; the error of that rank says more."""
    return AutobatchError("a rank has failed", code=RANK_FAILED, facts=(detail,))


def identity(workload: Workload) -> tuple[object, ...]:
    """The facts that must be the same in every session, or their trials don't compare."""
    return workload.model, workload.parameters, workload.loss, workload.optimizer, workload.dataset


def changed(recipe: messages.Recipe, first: Workload, latest: Workload) -> AutobatchError:
    """The error for a session whose workload is not that of the first session."""
    name = f"`{recipe.target}`" if recipe.target else "the model"
    return TargetError(
        f"{name} is not what it was when the measurements began",
        code="target_changed",
        facts=tuple(
            f"{when}: {workload.model}, {workload.parameters:,} parameters, {workload.optimizer}, "
            f"{workload.loss}, {workload.dataset}"
            for when, workload in (("first", first), ("now", latest))
        ),
        hint="leave the file alone while it is measured; a model must be made alike every time",
    )


def _signal_name(status: int) -> str:
    """`SIGKILL` for -9, `exit code 3` for 3."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"

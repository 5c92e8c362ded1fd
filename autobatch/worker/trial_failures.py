"""Failures of a trial as data: the outcome, the cause, and the error to show if it is the user's."""

from __future__ import annotations

from typing import Any

from autobatch.devices.oom import Cause, classify, shorten_message
from autobatch.engines.messages import Refused, Tried
from autobatch.records.errors import AutobatchError, TargetError
from autobatch.records.trial import Outcome
from autobatch.workload import compilation
from autobatch.workload.batches import describe_batch
from autobatch.workload.streamed_samples import StreamEndedError
from autobatch.workload.user_errors import describe_error, location_of


class OutOfTimeError(Exception):
    """The time for this trial ended before it had its steps."""


class MemoryPressureError(MemoryError):
    """Nothing failed, but the memory is too small for this size: it swaps, or waits for room."""


def failed(batch_size: int, error: BaseException, phase: str, steps: int, batch: Any = None) -> Tried:
    """The trial that ended with `error` in a phase, after `steps` whole steps on a batch."""
    detail = describe_error(error)
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
        detail = str(error) if isinstance(error, MemoryPressureError) else shorten_message(detail)
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
            hint="raise an error instead, so that the report can show it",
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

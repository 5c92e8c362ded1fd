"""Exceptions of a step, as trials and as errors that the user can act on."""

from __future__ import annotations

import pytest
import torch

from autobatch.devices.oom import Cause
from autobatch.records.errors import TargetError
from autobatch.records.trial import Outcome
from autobatch.worker.trial_failures import MemoryPressureError, OutOfTimeError, failed
from autobatch.workload.streamed_samples import StreamEndedError


@pytest.mark.parametrize(
    ("error", "outcome", "cause", "detail"),
    [
        (OutOfTimeError("the time ended"), Outcome.TIMEOUT, None, "the time ended"),
        (
            RuntimeError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB "
                "of which 1.20 GiB is free."
            ),
            Outcome.OUT_OF_MEMORY,
            Cause.OUT_OF_MEMORY,
            "asked for 2.00 GiB, 1.20 GiB free",
        ),
        (MemoryPressureError("it swaps"), Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY, "it swaps"),
        (ValueError("bad input"), Outcome.FAILED, Cause.USER_ERROR, "ValueError: bad input"),
        (StreamEndedError(12), Outcome.FAILED, None, "12"),
    ],
)
def test_outcome_cause_and_detail(
    error: Exception, outcome: Outcome, cause: Cause | None, detail: str
) -> None:
    tried = failed(8, error, "backward", 2)
    assert (tried.batch_size, tried.outcome, tried.cause, tried.detail) == (8, outcome, cause, detail)


def test_a_step_that_raises_is_shown_with_its_batch() -> None:
    tried = failed(8, ValueError("bad input"), "forward", 0, (torch.zeros(8, 3), torch.zeros(8).long()))
    assert tried.error is not None
    error = tried.error.rebuilt()
    assert error.message == "the training step fails at batch size 8, in the forward phase"
    assert error.facts == ("ValueError: bad input", "the batch: (float32[8, 3], int64[8])")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(3), "target_exits"),
        (RuntimeError("InvalidCxxCompiler: no g++"), "no_compiler"),
        (TargetError("no loss", code="no_loss"), "no_loss"),
        (StreamEndedError(12), "stream_ended"),
        (KeyError("y"), "step_fails"),
    ],
)
def test_the_error_to_show(error: BaseException, code: str) -> None:
    tried = failed(8, error, "forward", 0)
    assert tried.error is not None
    assert tried.error.code == code

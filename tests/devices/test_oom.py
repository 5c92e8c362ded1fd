"""Causes of failed steps, from the messages that vendors and libraries write."""

from __future__ import annotations

import pytest
import torch

from autobatch.devices.oom import Cause, classify, classify_text, shorten_message
from autobatch.workload.user_errors import describe_error

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB of which "
    "1.20 GiB is free. Including non-PyTorch memory, this process has 22.49 GiB memory in use."
)
OUT_OF_MEMORY = (
    CUDA,
    "HIP out of memory. Tried to allocate 20.00 MiB (GPU 0; 15.98 GiB total capacity)",
    "XPU out of memory. Tried to allocate 512.00 MiB",
    "CUDA error: out of memory",
    "MPS backend out of memory (MPS allocated: 9.05 GiB, other allocations: 1.2 MiB, max allowed: 9.07 GiB)",
    "Invalid buffer size: 24.00 GB",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 11345920 bytes. Error code 12 (Cannot allocate memory)",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 4194304 bytes.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "Native API failed. UR backend returns: out of device memory",
)
SUSPECTED = (
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "GET was unable to find an engine to execute this computation",
    "cuFFT error: CUFFT_INTERNAL_ERROR",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "could not create a primitive",
)
SIZE_LIMIT = (
    "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false.",
    "CUDA error: invalid configuration argument",
    "grid size exceeds 65535",
)
USER_ERRORS = (
    "mat1 and mat2 shapes cannot be multiplied (1x12 and 10x16)",
    "Expected all tensors to be on the same device",
    "CUDA error: device-side assert triggered",
)


@pytest.mark.parametrize("message", OUT_OF_MEMORY)
def test_out_of_memory(message: str) -> None:
    assert classify(RuntimeError(message)) is Cause.OUT_OF_MEMORY


@pytest.mark.parametrize("message", SUSPECTED)
def test_suspected(message: str) -> None:
    assert classify(RuntimeError(message)) is Cause.SUSPECTED


@pytest.mark.parametrize("message", SIZE_LIMIT)
def test_size_limits(message: str) -> None:
    assert classify(RuntimeError(message)) is Cause.SIZE_LIMIT


@pytest.mark.parametrize("message", USER_ERRORS)
def test_user_errors(message: str) -> None:
    assert classify(RuntimeError(message)) is Cause.USER_ERROR


def test_types_come_before_text() -> None:
    assert classify(torch.OutOfMemoryError("anything")) is Cause.OUT_OF_MEMORY
    assert classify(MemoryError()) is Cause.OUT_OF_MEMORY
    assert classify(ValueError("my table is out of memory slots")) is Cause.USER_ERROR


def test_the_cause_behind_an_error_counts() -> None:
    outer = ValueError("the batch failed")
    outer.__cause__ = MemoryError()
    assert classify(outer) is Cause.OUT_OF_MEMORY


def test_a_circle_of_causes_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is Cause.USER_ERROR


class MuteError(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_that_cannot_say_what_it_is() -> None:
    assert classify(MuteError()) is Cause.USER_ERROR
    assert describe_error(MuteError()) == "MuteError: (its text can't be had: ValueError)"


def test_text_alone() -> None:
    assert classify_text("CUDA ERROR: OUT OF MEMORY") is Cause.OUT_OF_MEMORY


def test_messages_of_allocators_are_shortened() -> None:
    assert shorten_message(CUDA) == "asked for 2.00 GiB, 1.20 GiB free"
    assert shorten_message(OUT_OF_MEMORY[6]) == "asked for 10.8 MiB"
    assert shorten_message("std::bad_alloc") == "std::bad_alloc"

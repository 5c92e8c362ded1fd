"""A plan: predictions only, with their assumptions."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.workload import Workload

_GIB, _MIB = 1 << 30, 1 << 20
# Memory of a process beside its tensors: CUDA's context and the kernels that were loaded. Others have
# measured 0.24 to 0.6 GiB with CUDA 12, and 0.7 to 1.9 with CUDA 11 or where the device shows a desktop.
_CONTEXT_BYTES = int(0.6 * _GIB)
# The workspaces of cuBLAS (docs.nvidia.com/cuda/cublas, CUBLAS_WORKSPACE_CONFIG) and cuBLASLt in torch.
WORKSPACE_BYTES = 8 * _MIB + 128 * 1024 + 4 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """A device to plan for. `total_bytes` as torch reports it; of these, `context_bytes` are not torch's to
    give, and libraries keep `workspace_bytes`. `kind` is torch's word for it.
    """

    name: str
    total_bytes: int
    context_bytes: int = _CONTEXT_BYTES
    workspace_bytes: int = WORKSPACE_BYTES
    kind: str = "cuda"
    source: str = ""

    @property
    def room_bytes(self) -> int:
        """The memory that a training's tensors may take, as its allocator reserves it."""
        return max(0, self.total_bytes - self.context_bytes - self.workspace_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParts:
    """The parts of the live memory at the peak. Activations include the batch, parameters the buffers.

    `workspace_bytes`: buffers that libraries keep, and those of an optimizer's step.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    workspace_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The peak memory of one batch size: alive, and reserved by the allocator."""

    batch_size: int
    allocated_bytes: int
    reserved_bytes: int
    parts: MemoryParts


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The largest batch size that is predicted to fit on a device: 0 where none does.

    It lies between `low` and `high`, as far as is known; at `high`, what is alive alone fills the device.
    `usage` is that of `batch_size`; of size 1 where that is 0.
    """

    device: PlannedDevice
    batch_size: int
    low: int
    high: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A batch size that was asked for: what it takes, and the smallest device that takes it, if any does."""

    usage: Usage
    smallest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The batch sizes that fit on devices, by a step that was traced and run on none of them.

    `assumptions` are those of the prediction, `warnings` the reasons to doubt it.
    """

    workload: Workload
    channels_last: bool
    fits: tuple[Fit, ...]
    asked: Asked | None
    accuracy: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    autobatch: str
    torch: str
    predicted: bool = True

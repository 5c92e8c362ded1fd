"""Trials of batch sizes, and everything else that a probe measures."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.device import Device
from autobatch.records.str_enum import StrEnum
from autobatch.records.workload import Workload


class Outcome(StrEnum):
    """How a trial of one batch size ended, or a short training at it."""

    OK = "ok"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    FAILED = "failed"
    DIVERGED = "diverged"


class LimitedBy(StrEnum):
    """The reason why the ceiling is not higher."""

    MEMORY = "memory"
    PLATEAU = "plateau"
    DATASET = "dataset"
    BUDGET = "budget"
    MAX_BATCH = "max_batch"
    SIZE_LIMIT = "size_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Throughput of a size over that of the best smaller size, from paired rounds.

    `ratio` with its interval (`low`, `high`); `decided` is False where the interval did not leave the
    threshold, or where more `rounds` were not worth their time.
    """

    over: int
    ratio: float
    low: float
    high: float
    rounds: int
    decided: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One batch size, tried for real. A failure is data: an outcome and a detail.

    `step_seconds`: the median step of each timing round. `samples_per_second_interval`: 90% interval
    of the median over rounds. `load_seconds`: to draw and collate one batch in one process.
    `peak_bytes`: the peak memory of training, above the worker at rest; `reserved_bytes`: the memory held
    for it, by the device's caching allocator, or on a CPU by the process, whose limit counts what it never
    uses. `utilisation`: 0 to 1. `samples` and `optimizer_steps` count what was really executed. `phase`
    names where a failure happened. `confirmed`: it passed in a process that had trained nothing before.
    """

    batch_size: int
    outcome: Outcome
    step_seconds: tuple[float, ...] = ()
    samples_per_second: float | None = None
    samples_per_second_interval: tuple[float, float] | None = None
    steps_per_epoch: int | None = None
    epoch_seconds: float | None = None
    load_seconds: float | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    utilisation: float | None = None
    samples: int = 0
    optimizer_steps: int = 0
    gain: Gain | None = None
    confirmed: bool = False
    phase: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """Memory as a straight line of the batch size B: fixed_bytes + sample_bytes x B."""

    fixed_bytes: float
    sample_bytes: float

    def at(self, batch_size: float) -> float:
        return self.fixed_bytes + self.sample_bytes * batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The largest size that passed and what kept it from being higher.

    `verified`: it passed once more in a fresh worker, with full steps and an evaluation pass.
    """

    batch_size: int
    limited_by: LimitedBy
    verified: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderTiming:
    """Seconds from batch to batch of a DataLoader with so many workers and nothing else to do.

    `batch_seconds` is None where it gave none; `detail` says why.
    """

    workers: int
    batch_seconds: float | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Loading during training, at one batch size. `step_seconds`: a step without loading.

    `workers`: the user's number, which is timed first. `sufficient_workers`: the first measured number with
    which loading slows a step by no more than 5%; None where none does. Without `timings` there was no time.
    """

    batch_size: int
    workers: int
    step_seconds: float
    timings: tuple[LoaderTiming, ...] = ()
    sufficient_workers: int | None = None

    def pace_seconds(self, timing: LoaderTiming) -> float | None:
        """Seconds of a step with its batch loaded: beside the step by workers, else before it."""
        if timing.batch_seconds is None:
            return None
        if timing.workers:
            return max(self.step_seconds, timing.batch_seconds)
        return self.step_seconds + timing.batch_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Communication:
    """The cost of communication in a step, measured in turns at one batch size of each rank.

    `step_seconds` with gradients exchanged, `alone_seconds` the same step on all ranks without it.
    """

    batch_size: int
    step_seconds: float
    alone_seconds: float

    @property
    def seconds(self) -> float:
        """The part not hidden behind the computation; noise can't make it negative."""
        return max(0.0, self.step_seconds - self.alone_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesPerRank:
    """A size for each rank, by its speed, in the place of a common one; they add up to the same global batch.

    Both steps were timed in turns. Without `step_seconds` the sizes did not pass, or there are none: `detail`
    says why.
    """

    common_batch_size: int
    batch_sizes: tuple[int, ...] = ()
    step_seconds: float | None = None
    common_step_seconds: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """All measurements of a probe, in the order in which they were made.

    With `world_size` ranks, every trial is a step of all of them together: its batch size is that of one
    rank, its time that of the slowest, its memory the most that one of them took.
    """

    trials: tuple[Trial, ...]
    ceiling: Ceiling
    workload: Workload
    device: Device
    warnings: tuple[str, ...] = ()
    loader: Loader | None = None
    world_size: int = 1
    communication: Communication | None = None
    sizes_per_rank: SizesPerRank | None = None

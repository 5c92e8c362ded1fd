"""The data that flows through autobatch: frozen, typed, standard library only.

Units are in the names: `_seconds`, `_bytes`. Sizes are batch sizes in samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from autobatch.errors import UsageError


class Outcome(StrEnum):
    """How a trial of one batch size ended."""

    OK = "ok"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    FAILED = "failed"


class LimitedBy(StrEnum):
    """What kept the ceiling from being higher."""

    MEMORY = "memory"
    PLATEAU = "plateau"
    DATASET = "dataset"
    BUDGET = "budget"
    MAX_BATCH = "max_batch"
    SIZE_LIMIT = "size_limit"


class Objective(StrEnum):
    """What the recommended batch size is best at."""

    TIME = "time"
    THROUGHPUT = "throughput"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a search may do and what it is for.

    `memory_bytes`: on CPU what training may take on top of the worker after imports and data set
    loading; elsewhere what the device's allocator may hold. None takes what is available.
    `budget_seconds`: wall time of the measurements, start-up of the worker excepted.
    `global_batch`: samples per optimizer step over all accumulation steps and ranks.
    `ceiling`: climb past a throughput plateau, to the largest size that fits.

    Raises UsageError for a value that can't be meant.
    """

    memory_bytes: int | None = None
    min_batch: int = 1
    max_batch: int | None = None
    multiple_of: int = 1
    global_batch: int | None = None
    budget_seconds: float = 60.0
    trial_timeout_seconds: float = 120.0
    objective: Objective = Objective.TIME
    ceiling: bool = False
    check: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "min_batch", "max_batch", "multiple_of", "global_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` must be at least 1, not {value}", code="bad_limit")
        for name in ("budget_seconds", "trial_timeout_seconds"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise UsageError(
                    f"`{name}` must be a positive number of seconds, not {value}", code="bad_limit"
                )
        if self.objective not in tuple(Objective):
            known = ", ".join(f"`{one}`" for one in Objective)
            raise UsageError(f"`objective` must be one of {known}, not `{self.objective}`", code="bad_limit")
        for name in ("max_batch", "global_batch"):
            value = getattr(self, name)
            if value is not None and value < self.smallest:
                raise UsageError(
                    f"`{name}` {value} is below the smallest batch size that may be tried, {self.smallest}",
                    code="bad_limit",
                    facts=(f"`min_batch` is {self.min_batch}, `multiple_of` is {self.multiple_of}",),
                    hint=f"raise `{name}`, or lower `min_batch` or `multiple_of`",
                )

    @property
    def smallest(self) -> int:
        """The smallest batch size that may be tried: min_batch rounded up to a multiple."""
        return -(-self.min_batch // self.multiple_of) * self.multiple_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that holds memory on a device. `memory_bytes` is None where the driver won't say."""

    pid: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as it was found. `limit_bytes` is what training may take, `limit_source` says why."""

    kind: str
    index: int
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    uuid: str | None = None
    driver: str | None = None
    threads: int | None = None
    limit_bytes: int | None = None
    limit_source: str = ""
    utilisation: float | None = None
    holders: tuple[Holder, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`cpu`, `mps`, or `cuda:0`."""
        return self.kind if self.kind in ("cpu", "mps") else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Throughput of a size over that of the best smaller size, from paired rounds.

    `ratio` with its interval (`low`, `high`); `decided` is False where the interval never left the
    threshold before the rounds ran out.
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
    `peak_bytes`: what training took at most, above the worker at rest; `reserved_bytes`: what the
    device's caching allocator took for it. `utilisation`: 0 to 1. `samples` and `optimizer_steps`
    count what was really executed. `phase` names where a failure happened.
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
    phase: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


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
class Workload:
    """What is trained, as it was found. `inferred` lists what autobatch filled in by itself.

    `synthetic` is True where the samples are random numbers of a given shape: then memory and speed
    are measured, and nothing can be said about learning. `batch_size` is the user's present one.
    """

    target: str
    model: str
    parameters: int
    loss: str
    optimizer: str
    learning_rate: float | None = None
    dataset: str = ""
    dataset_size: int | None = None
    batch_size: int | None = None
    synthetic: bool = False
    inferred: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """All that a probe measured, in the order in which it was measured."""

    trials: tuple[Trial, ...]
    ceiling: Ceiling
    workload: Workload
    device: Device
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where and when it was measured. `started_at` is ISO 8601, UTC."""

    autobatch: str
    python: str
    torch: str
    platform: str
    cpu: str
    started_at: str
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A size with its expected time to the same loss, in units of that at the recommended size."""

    batch_size: int
    relative_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The generalization check: what a larger batch costs in statistical efficiency.

    `status` says what was done, or why not. `noise_scale` (the last one measured) and
    `critical_batch_size` are in samples; `interval` is the latter's, at 90%, its upper end None where it
    is open; `log_sd` is the standard deviation of its logarithm. All are None where nothing was found.
    """

    status: str
    noise_scale: float | None = None
    critical_batch_size: float | None = None
    interval: tuple[float, float | None] | None = None
    log_sd: float | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One tuned batch size with its reasons and its doubts.

    `batch_size` is what the DataLoader gets on one device, always a size that was measured;
    batch_size x accumulation_steps x world_size = global_batch_size. `learning_rate` belongs to the
    global batch and is None where no check has found one.
    """

    batch_size: int
    accumulation_steps: int
    world_size: int
    global_batch_size: int
    learning_rate: float | None
    ceiling: Ceiling
    trials: tuple[Trial, ...]
    check: Check | None
    why: str
    warnings: tuple[str, ...]
    workload: Workload
    device: Device
    limits: Limits = field(default_factory=Limits)
    environment: Environment | None = None

    @property
    def chosen(self) -> Trial:
        """The trial of the recommended batch size."""
        return next(t for t in reversed(self.trials) if t.ok and t.batch_size == self.batch_size)

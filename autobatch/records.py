"""The data that flows through autobatch: frozen, typed, standard library only.

Units are in the names: `_seconds`, `_bytes`. Sizes are batch sizes in samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from autobatch.errors import UsageError


class Outcome(StrEnum):
    """How a trial of one batch size ended, or a short training at it."""

    OK = "ok"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    FAILED = "failed"
    DIVERGED = "diverged"


class LimitedBy(StrEnum):
    """What kept the ceiling from being higher."""

    MEMORY = "memory"
    PLATEAU = "plateau"
    DATASET = "dataset"
    BUDGET = "budget"
    MAX_BATCH = "max_batch"
    SIZE_LIMIT = "size_limit"


class CheckStatus(StrEnum):
    """How far the generalization check went.

    `passed` and `vetoed`: short trainings ran, and no size or some size trained worse than the present one.
    `noise_only`: the answer comes from the gradient's noise scale alone. `not_run`: nothing was found.
    """

    PASSED = "passed"
    VETOED = "vetoed"
    NOISE_ONLY = "noise_only"
    NOT_RUN = "not_run"


class AnswerLimit(StrEnum):
    """What keeps the answer from being larger.

    `generalization`: a larger size needs more samples than its throughput makes up for. `veto`: it trained
    worse.
    """

    MEMORY = "memory"
    THROUGHPUT = "throughput"
    GENERALIZATION = "generalization"
    VETO = "veto"
    DATASET = "dataset"
    OPTIONS = "options"


class Objective(StrEnum):
    """What the recommended batch size is best at."""

    TIME = "time"
    THROUGHPUT = "throughput"
    MEMORY = "memory"


class Precision(StrEnum):
    """The arithmetic of a training step. `bf16` and `fp16`: autocast, with weights kept in their own type;
    `fp16` scales its gradients, so that small ones are not lost.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a search may do and what it is for.

    `memory_bytes`: on CPU what training may take on top of the worker after imports and data set
    loading; elsewhere what the device's allocator may hold. None takes what is available. Of either, the
    share `memory_fraction` is used: the rest is the margin of a training that goes on for long.
    `budget_seconds`: wall time of the measurements, start-up of the worker excepted.
    `global_batch`: samples per optimizer step over all accumulation steps and ranks.
    `ceiling`: climb past a throughput plateau, to the largest size that fits. `sizes_per_rank`: after the
    common answer, sizes of their own for ranks of unequal speed.

    Raises UsageError for a value that can't be meant.
    """

    memory_bytes: int | None = None
    memory_fraction: float = 1.0
    min_batch: int = 1
    max_batch: int | None = None
    multiple_of: int = 1
    global_batch: int | None = None
    budget_seconds: float = 60.0
    trial_timeout_seconds: float = 120.0
    objective: Objective = Objective.TIME
    ceiling: bool = False
    check: bool = True
    sizes_per_rank: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "min_batch", "max_batch", "multiple_of", "global_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` must be at least 1, not {value}", code="bad_limit")
        if not 0 < self.memory_fraction <= 1:
            raise UsageError(
                f"`memory_fraction` must be above 0 and at most 1, not {self.memory_fraction}",
                code="bad_limit",
            )
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

    @property
    def asks_for_size(self) -> bool:
        """True where what was asked for settles the size, so that no training has to choose it."""
        return self.objective is not Objective.TIME or self.global_batch is not None


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
    `peak_bytes`: what training took at most, above the worker at rest; `reserved_bytes`: what was held for
    it, by the device's caching allocator, or on a CPU by the process, whose limit counts what it never
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
class Decay:
    """What an optimizer keeps of its past at each step: `momentum`, or Adam's `beta2`; 0 to 1."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """A part of a training that is counted in steps, such as `warmup_steps`."""

    name: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLengths:
    """Tokens in a sample, over the samples that were scanned."""

    mean: float
    median: float
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSizes:
    """Tensor elements in a sample, over the samples that were `scanned`.

    `tokens` is there where the input of each sample is a sequence of tokens.
    """

    scanned: int
    smallest: int
    median: float
    largest: int
    tokens: SequenceLengths | None = None

    @property
    def vary(self) -> bool:
        """True where the samples are not of one size, so that memory was measured on the largest."""
        return self.largest > self.smallest


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is trained, as it was found. `inferred` lists what autobatch filled in by itself.

    `synthetic` is True where the samples are random numbers of a given shape: then memory and speed
    are measured, and nothing can be said about learning. `batch_size` is the user's present one, `epochs`
    how many they train for, `schedule` what of their training is counted in steps. `learning_rate` is
    None where parameter groups differ in it. `sizes` is None where no sample was looked at, `workers` (of
    the DataLoader) where none was given: then torch's default of 0 is meant. `precision` is None for a `step`
    of the user's own, which has its own.
    """

    target: str
    model: str
    parameters: int
    loss: str
    optimizer: str
    learning_rate: float | None = None
    decays: tuple[Decay, ...] = ()
    dataset: str = ""
    dataset_size: int | None = None
    batch_size: int | None = None
    epochs: float | None = None
    schedule: tuple[StepCount, ...] = ()
    synthetic: bool = False
    sizes: SampleSizes | None = None
    workers: int | None = None
    precision: Precision | None = Precision.FP32
    inferred: tuple[str, ...] = ()


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
    """Loading beside training, at one batch size. `step_seconds` is that of a step alone.

    `workers`: the user's own number, which is timed first. `lifts`: the first number that was measured with
    which loading slows a step by no more than 5%; None where none does. Without `timings` there was no time.
    """

    batch_size: int
    workers: int
    step_seconds: float
    timings: tuple[LoaderTiming, ...] = ()
    lifts: int | None = None

    def pace_seconds(self, timing: LoaderTiming) -> float | None:
        """Seconds of a step with its batch loaded: beside the step by workers, else before it."""
        if timing.batch_seconds is None:
            return None
        if timing.workers:
            return max(self.step_seconds, timing.batch_seconds)
        return self.step_seconds + timing.batch_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Communication:
    """What a step costs more because ranks train together, measured in turns at one batch size of each rank.

    `step_seconds` with gradients exchanged, `alone_seconds` the same step on all ranks without it.
    """

    batch_size: int
    step_seconds: float
    alone_seconds: float

    @property
    def seconds(self) -> float:
        """What is not hidden behind the computation; noise can't make it negative."""
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
class DeviceCount:
    """Predicted, not measured: a number of devices with its best batch size of each.

    `relative_time`: to the same loss, in units of that with the ranks that were measured.
    """

    devices: int
    batch_size: int
    global_batch_size: int
    relative_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Predicted time to the same loss over the number of devices, ascending.

    `useful_devices`: beyond these another one makes it longer; None where none of the numbers that were
    looked at does.
    """

    counts: tuple[DeviceCount, ...]
    useful_devices: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """All that a probe measured, in the order in which it was measured.

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
class Evaluation:
    """The loss on the samples held out, after `steps` training steps that took `seconds`.

    `losses`: the mean loss of each part of them; the parts are of equal size, and the same in every training.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A short training of the check, from the same first weights and samples as the others.

    Every learning rate of the user's was multiplied by `learning_rate_factor`. A failure is data: an
    outcome and a detail.
    """

    batch_size: int
    learning_rate_factor: float
    outcome: Outcome
    steps: int
    seconds: float
    evaluations: tuple[Evaluation, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Veto:
    """A size that trained worse than the present one, with half its learning rate too, or not at all."""

    batch_size: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A size with its expected time to the same loss, in units of that at the recommended size.

    `accumulation_steps` above 1: the same with gradients accumulated. Of a short training, where there was
    one: the last `loss` on the samples held out, and what it took to the check's `matched_loss`.
    """

    batch_size: int
    relative_time: float
    accumulation_steps: int = 1
    learning_rate_factor: float | None = None
    loss: float | None = None
    steps: int | None = None
    steps_to_loss: float | None = None
    seconds_to_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The generalization check: what a larger batch costs in statistical efficiency.

    `detail` says what was done, or why not. `noise_scale` (the last one measured) and `critical_batch_size`
    are in samples of an optimizer step, over all ranks; all other sizes are those of one rank. `interval` is
    the critical batch size's, at 90%, its upper end None where it is open; `log_sd` is the standard deviation
    of its logarithm; the trainings have their say in all three. All are None where nothing was found.
    `batch_size` is what the trainings are judged against: the present size, or what stands for it where that
    is unknown or does not fit. `held_out` says which samples the trainings were judged on.
    """

    status: CheckStatus
    detail: str = ""
    batch_size: int | None = None
    noise_scale: float | None = None
    critical_batch_size: float | None = None
    interval: tuple[float, float | None] | None = None
    log_sd: float | None = None
    held_out: str = ""
    trainings: tuple[Training, ...] = ()
    matched_loss: float | None = None
    candidates: tuple[Candidate, ...] = ()
    vetoed: tuple[Veto, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Expected time to the same loss at `batch_size` over that at the recommended size.

    `low` and `high`: its least and largest over the interval of the critical batch size. `epochs_ratio`: the
    epochs that the recommended size takes for that loss, over those at `batch_size`.
    """

    batch_size: int
    relative_time: float
    low: float
    high: float
    epochs_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of a step as a law of the batch size B: fixed_seconds + sample_seconds x B.

    `relative_error`: how far the measured sizes are from it, as a root mean square.
    """

    fixed_seconds: float
    sample_seconds: float
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One tuned batch size with its reasons and its doubts.

    `batch_size` is what the DataLoader gets on one device, always a size that was measured;
    batch_size x accumulation_steps x world_size = global_batch_size. `learning_rate` belongs to the
    global batch; `learning_rate_factor` is what it multiplies the present one by, for all parameter
    groups; both are None where no check has found one. `present` and `runner_up` compare the answer with the
    user's own size and the next best; `regret_bound` is its time over that of the best size in hindsight, at
    worst over the check's interval. `limited_by` is what keeps it from being larger, `step_time` the law that
    was fitted to the sizes timed. `schedule` restates the workload's for the new number of steps.
    `tokens_per_second` (of one rank) is there for sequences, `loader` where loading takes a share of the
    step. `communication` and `scaling` are there with several ranks, `sizes_per_rank` where they were asked
    for. `cached`: nothing was measured now; it is the answer of `environment.started_at`, from the cache.
    """

    batch_size: int
    accumulation_steps: int
    world_size: int
    global_batch_size: int
    learning_rate: float | None
    learning_rate_factor: float | None = None
    ceiling: Ceiling
    trials: tuple[Trial, ...]
    check: Check | None
    why: str
    warnings: tuple[str, ...]
    present: Comparison | None = None
    runner_up: Comparison | None = None
    regret_bound: float | None = None
    limited_by: AnswerLimit | None = None
    step_time: StepTime | None = None
    tokens_per_second: float | None = None
    schedule: tuple[StepCount, ...] = ()
    loader: Loader | None = None
    communication: Communication | None = None
    scaling: Scaling | None = None
    sizes_per_rank: SizesPerRank | None = None
    workload: Workload
    device: Device
    limits: Limits = field(default_factory=Limits)
    environment: Environment | None = None
    cached: bool = False

    @property
    def chosen(self) -> Trial:
        """The trial of the recommended batch size."""
        return next(t for t in reversed(self.trials) if t.ok and t.batch_size == self.batch_size)

    def _repr_html_(self) -> str | None:
        """What notebooks show, by a renderer from above, as records know of no reports; None without one."""
        return None if _notebook_renderer is None else _notebook_renderer(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """An answer in the cache, and the size of its file."""

    path: str
    size_bytes: int
    answer: Recommendation


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheListing:
    """What lies in the cache, the newest first; `damaged` says of files why they are ignored."""

    folder: str
    entries: tuple[CacheEntry, ...]
    damaged: tuple[str, ...] = ()


_notebook_renderer: Callable[[Recommendation], str] | None = None


def render_in_notebooks_by(renderer: Callable[[Recommendation], str]) -> None:
    """From now on a notebook shows an answer as the HTML that `renderer` makes of it."""
    global _notebook_renderer
    _notebook_renderer = renderer

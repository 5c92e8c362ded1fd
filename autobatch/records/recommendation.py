"""The recommendation: one batch size with the records it was decided from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autobatch.records.check import Check
from autobatch.records.device import Device
from autobatch.records.limits import Limits
from autobatch.records.scaling import Scaling
from autobatch.records.str_enum import StrEnum
from autobatch.records.trial import Ceiling, Communication, Curve, Loader, SizesPerRank, Trial
from autobatch.records.workload import StepCount, Workload

# The detail of the ceiling of a search that ended before its sizes were measured.
INTERRUPTED = "interrupted"


class AnswerLimit(StrEnum):
    """The reason why the answer is not larger.

    `size_limit`: larger sizes fail for a reason other than memory. `generalization`: a larger size needs more
    samples than its throughput makes up for. `veto`: it trained worse.
    """

    MEMORY = "memory"
    SIZE_LIMIT = "size_limit"
    THROUGHPUT = "throughput"
    GENERALIZATION = "generalization"
    VETO = "veto"
    DATASET = "dataset"
    OPTIONS = "options"


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
class Comparison:
    """Expected time to the same loss at `batch_size` over that at the recommended size.

    `low` and `high`: its 90% interval, by the critical batch size and the error of its law. `epochs_ratio`:
    the epochs that the recommended size takes for that loss, over those at `batch_size`.
    """

    batch_size: int
    relative_time: float
    low: float
    high: float
    epochs_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A size with its expected time to the same loss, in units of the time at the recommended size.

    `accumulation_steps` above 1: the same with gradients accumulated. Of a short training at this size: its
    `learning_rate_factor`, its `steps`, the mean `loss` of its last evaluations on held-out samples, and its
    steps and seconds to the check's `matched_loss`.
    """

    batch_size: int
    relative_time: float
    accumulation_steps: int = 1
    learning_rate_factor: float | None = None
    loss: float | None = None
    steps: int | None = None
    steps_to_loss: float | None = None
    seconds_to_loss: float | None = None


class Action(StrEnum):
    """Whether to change the current batch size or to keep it."""

    CHANGE = "change"
    KEEP = "keep"


class Confidence(StrEnum):
    """The probability that a decision is right, in words."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class SameEpochs:
    """A size beside the current one, for a training of the user's epochs.

    `harm`: expected final loss over that at the current size with the current learning rate. `harm_low` and
    `harm_high`: one standard deviation below and above. All three are None without a loss curve, and where
    the training failed. `learning_rate_factor`: the learning rate of the trainings at this size, over the
    current one; None without a training. `rate_gain`: the part of `harm` that comes from a tried learning
    rate in place of the rule's, 1 where none was better.
    `speedup`: time of the training at the current size over that at this size, with its 90% `interval`.
    `safe`: the expected harm is within 2%.
    """

    batch_size: int
    harm: float | None
    harm_low: float | None
    harm_high: float | None
    speedup: float
    interval: tuple[float, float]
    safe: bool
    learning_rate_factor: float | None = None
    rate_gain: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Change to `batch_size` or keep it.

    `confidence`: the probability that this is right; `level`: the same in words.
    """

    action: Action
    batch_size: int
    confidence: float
    level: Confidence


class AlternativeKind(StrEnum):
    """The change that an alternative asks for, beside the batch size.

    `global_batch`: other samples of an optimizer step, where the answer keeps them and divides them anew.
    """

    MORE_EPOCHS = "more_epochs"
    GLOBAL_BATCH = "global_batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A faster way to the loss of the current training that changes more than the batch size.

    `epochs_ratio`: the epochs that it takes over the current ones; `epochs` is their number where the current
    one is known. `speedup`: expected time at the current size over that of the alternative. `interval`: its
    90% interval.
    """

    kind: AlternativeKind
    batch_size: int
    learning_rate_factor: float | None
    epochs_ratio: float
    epochs: int | None
    speedup: float
    interval: tuple[float, float]


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
    """One batch size with its reasons, its warnings, and everything that it was decided from.

    Sizes: `batch_size` is the DataLoader's on one device, always a size that was measured;
    batch_size x accumulation_steps x world_size = global_batch_size. `learning_rate` belongs to the global
    batch. `learning_rate_factor` is its ratio to the current one, for all parameter groups. Both are None
    where no check has run.

    Decided from `trials`, `ceiling`, `check`, `loader`, `communication`, `sizes_per_rank`, `workload` and
    `device`, which are as they were measured, with `measured_warnings`, and from `limits`.

    Derived from these: `decision` is to change the current size or to keep it, for a training of the same
    `epochs` (None where their number is unknown), and `same_epochs` has each timed size beside the current
    one. Without a decision another objective or a global batch settled the size, or there was no check.
    `alternatives` are faster and change more. `candidates` are the expected times of all sizes to the same
    loss. With that objective, `current` and `runner_up` compare the answer with the current size and the next
    best, and `regret_bound` is its time over the time at the truly best size, the worst case of the check's
    interval. `limited_by` keeps it from being larger. `step_time` is
    the model fitted to the timed sizes. `schedule` restates the workload's for the new number of steps.
    `tokens_per_second` is that of one rank, for sequences. `scaling` predicts other numbers of devices.
    `warnings` holds the measured warnings and the derived ones.

    `cached`: the answer of `environment.started_at`, from the cache.
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
    measured_warnings: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    decision: Decision | None = None
    epochs: float | None = None
    same_epochs: tuple[SameEpochs, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    current: Comparison | None = None
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
    # False for a result of an earlier schema, which lacks measurements that a new decision needs.
    decidable: bool = True
    environment: Environment | None = None
    cached: bool = False

    @property
    def curve(self) -> Curve:
        """The measurements that the answer was decided from."""
        return Curve(
            trials=self.trials,
            ceiling=self.ceiling,
            workload=self.workload,
            device=self.device,
            warnings=self.measured_warnings,
            loader=self.loader,
            world_size=self.world_size,
            communication=self.communication,
            sizes_per_rank=self.sizes_per_rank,
        )

    @property
    def chosen(self) -> Trial:
        """The trial of the recommended batch size."""
        return next(t for t in reversed(self.trials) if t.ok and t.batch_size == self.batch_size)

    @property
    def stopped(self) -> bool:
        """True where the search was interrupted before its sizes were measured: nothing is recommended."""
        return self.ceiling.detail == INTERRUPTED

    def __str__(self) -> str:
        """The answer in up to three lines; all fields before `show_by` was called."""
        return repr(self) if _text_renderer is None else _text_renderer(self)

    def plot(self, axes: Any = None) -> Any:
        """Draw the answer by matplotlib in `axes`, or in new ones, and return them.

        The plot has the relative time over the batch size with its 90% intervals, or the throughput without a
        check. Raises AutobatchError where matplotlib is not installed.
        """
        assert _plotter is not None, "the package autobatch sets the plotter"
        return _plotter(self, axes)

    def _repr_html_(self) -> str | None:
        """The HTML that notebooks show; None before `show_by` was called."""
        return None if _notebook_renderer is None else _notebook_renderer(self)


_text_renderer: Callable[[Recommendation], str] | None = None
_notebook_renderer: Callable[[Recommendation], str] | None = None
_plotter: Callable[[Recommendation, Any], Any] | None = None


def show_by(
    *,
    text: Callable[[Recommendation], str],
    notebook: Callable[[Recommendation], str],
    plot: Callable[[Recommendation, Any], Any],
) -> None:
    """Set the functions behind `str(answer)`, a notebook's output and `answer.plot()`.

    Records do not import the reports above them.
    """
    global _text_renderer, _notebook_renderer, _plotter
    _text_renderer, _notebook_renderer, _plotter = text, notebook, plot

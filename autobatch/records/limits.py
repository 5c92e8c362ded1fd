"""Limits of a search: what it may use, and what the recommended size is to be best at."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, lcm

from autobatch.records.errors import UsageError
from autobatch.records.str_enum import StrEnum


class Objective(StrEnum):
    """The quality that the recommended batch size is best at.

    `time`: the shortest training of the same epochs with the same final loss. `time-to-loss`: the shortest
    time to the same loss, in more or fewer epochs.
    """

    TIME = "time"
    TIME_TO_LOSS = "time-to-loss"
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
    """The limits of a search, and its objective.

    `memory_bytes`: on CPU the memory of training on top of the worker after imports and data set
    loading; elsewhere the memory that the device's allocator may hold. None takes the available memory. Of
    either, the share `memory_fraction` is used: the rest is the margin of a training that goes on for long.
    `budget_seconds`: wall time of the whole search, start-up of the worker included.
    `global_batch`: samples per optimizer step over all accumulation steps and ranks. `group`: samples that
    belong together, as the completions of a prompt; the global batch size is a multiple of it.
    `ceiling`: climb past a throughput plateau, to the largest size that fits. `sizes_per_rank`: after the
    common answer, a size for each rank where ranks differ in speed. `keep_learning_rate`: the answer is
    applied without its learning rate, so that sizes are trained and judged with the current one.
    `number_alone`: it is applied without accumulation steps and restated step counts too.

    Raises UsageError for a value that can't be meant.
    """

    memory_bytes: int | None = None
    memory_fraction: float = 1.0
    min_batch: int = 1
    max_batch: int | None = None
    multiple_of: int = 1
    group: int = 1
    global_batch: int | None = None
    budget_seconds: float = 60.0
    trial_timeout_seconds: float = 120.0
    objective: Objective = Objective.TIME
    ceiling: bool = False
    check: bool = True
    sizes_per_rank: bool = False
    keep_learning_rate: bool = False
    number_alone: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "min_batch", "max_batch", "multiple_of", "group", "global_batch"):
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
            choices = ", ".join(f"`{objective}`" for objective in Objective)
            raise UsageError(
                f"`objective` must be one of {choices}, not `{self.objective}`", code="bad_limit"
            )
        # A plain string compares equal, but is not the member that decisions look for.
        object.__setattr__(self, "objective", Objective(self.objective))
        if self.global_batch is not None and self.global_batch % self.group:
            raise UsageError(
                f"`global_batch` {self.global_batch} is no multiple of the group of {self.group}",
                code="bad_limit",
                hint=f"give a multiple of {self.group}",
            )
        # Ranks share a group, so that a size of one rank may be smaller than it.
        least = _rounded_up(self.min_batch, self.multiple_of)
        for name in ("max_batch", "global_batch"):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(
                    f"`{name}` {value} is below the smallest batch size that may be tried, {least}",
                    code="bad_limit",
                    facts=(f"`min_batch` is {self.min_batch}, `multiple_of` is {self.multiple_of}",),
                    hint=f"raise `{name}`, or lower `min_batch` or `multiple_of`",
                )

    @property
    def unit(self) -> int:
        """Samples: every batch size of a rank is a multiple of it. A global batch holds whole groups."""
        return lcm(self.multiple_of, self.group if self.global_batch is None else 1)

    @property
    def smallest(self) -> int:
        """The smallest batch size that may be tried: min_batch rounded up to a multiple."""
        return self.rounded_up(self.min_batch)

    def permits(self, size: int) -> bool:
        """True for a batch size of one rank that may be tried, trained or recommended."""
        return self.smallest <= size <= (self.max_batch or size) and size % self.unit == 0

    def rounded_up(self, size: int) -> int:
        """The smallest multiple of the unit from `size` on."""
        return _rounded_up(size, self.unit)

    def rounded_down(self, size: int) -> int:
        """The largest multiple of the unit up to `size`; 0 below the unit."""
        return size // self.unit * self.unit

    def nearest(self, size: int) -> int:
        """The largest permitted size up to `size`, else the smallest permitted size."""
        return max(self.smallest, self.rounded_down(min(size, self.max_batch or size)))

    @property
    def asks_for_size(self) -> bool:
        """True where what was asked for settles the size, so that no training has to choose it."""
        times = (Objective.TIME, Objective.TIME_TO_LOSS)
        return self.objective not in times or self.global_batch is not None


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit

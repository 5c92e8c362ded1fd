"""Two saved results beside each other: the answers, the reason why they differ, and each measured size."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.str_enum import StrEnum
from autobatch.records.trial import Outcome


class Cause(StrEnum):
    """A part of a result that, put into the other result, gives the same answer.

    `workload`: the training and its settings. `limits`: the options of the search. `trials`: speed and
    memory of the sizes. `check`: gradient noise and short trainings.
    """

    WORKLOAD = "workload"
    LIMITS = "limits"
    TRIALS = "trials"
    CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A fact that differs between two results, as text; empty where a result has none."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSize:
    """A batch size in both results. Each pair is (before, after), None where it was not measured.

    `speed_ratio`: samples per second after over before. `beyond_noise`: their 90% intervals are apart.
    """

    batch_size: int
    outcomes: tuple[Outcome | None, Outcome | None]
    samples_per_second: tuple[float | None, float | None]
    peak_bytes: tuple[int | None, int | None]
    speed_ratio: float | None
    beyond_noise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultComparison:
    """Two results, and the changes from the earlier one (before) to the later one (after).

    `learning_rates` and `confidences` are None where a result has none. `causes`: each of these alone
    explains the change of the batch size; empty where none does, or nothing changed. `explained` is False for
    a result that can't be decided again. `relative_time`: the time at the size of the answer before, over
    that at the answer after, by the measurements after; None where it is unknown. Differences are of the
    workload, the check, the device, the limits and the versions.
    """

    batch_sizes: tuple[int, int]
    global_batch_sizes: tuple[int, int]
    learning_rates: tuple[float | None, float | None]
    confidences: tuple[float | None, float | None]
    causes: tuple[Cause, ...]
    explained: bool
    relative_time: float | None
    sizes: tuple[ComparedSize, ...]
    differences: tuple[Difference, ...]

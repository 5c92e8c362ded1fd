"""Pure: the statistics of a batch size over several ranks, and the useful number of devices.

An optimizer step of R ranks with B samples each averages over a global batch of R B samples:

    T(B, R) = (1 + B_crit / (R B)) t(B) S_min

with t(B) the step of one rank, its communication included. So all laws of
`autobatch.decision.critical_batch`, learning rates included, hold for the size of one rank with B_crit / R in
the place of B_crit: they depend on ratios of sizes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd, isfinite

from autobatch.decision.constants import FARTHEST_PREDICTION
from autobatch.decision.step_time import StepTimeLaw
from autobatch.records.check import Check, NoisePoint
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits
from autobatch.records.scaling import DeviceCount, Scaling
from autobatch.records.trial import Communication
from autobatch.records.workload import Workload


def per_rank(check: Check, ranks: int) -> Check:
    """The check with its critical batch size as one rank's part of it."""
    return check if ranks == 1 else _scaled(check, 1 / ranks)


def over_ranks(check: Check, ranks: int) -> Check:
    """The check with the critical batch size of all ranks, from one rank's part of it."""
    return check if ranks == 1 else _scaled(check, ranks)


def limits_of_a_rank(limits: Limits, ranks: int) -> Limits:
    """The limits with one rank's share of the global batch, or of a group.

    Raises UsageError if the ranks can't share the global batch.
    """
    if ranks == 1:
        return limits
    if limits.global_batch is None:
        return replace(limits, group=limits.group // gcd(limits.group, ranks))
    if limits.global_batch % ranks:
        raise UsageError(
            f"the global batch size {limits.global_batch:,} can't be shared out to {ranks:,} ranks",
            code="bad_limit",
            hint=f"give a multiple of {ranks:,}",
        )
    return replace(limits, global_batch=limits.global_batch // ranks, group=1)


def share_of_dataset(size: int | None, ranks: int) -> int | None:
    """Samples of an epoch that each rank sees: as torch's DistributedSampler, which repeats some."""
    return None if size is None else -(-size // ranks)


def samples_of_training(workload: Workload, ranks: int) -> float | None:
    """The samples that each rank sees in the user's whole training; None where its length is unknown."""
    samples = share_of_dataset(workload.dataset_size, ranks)
    return None if samples is None or workload.epochs is None else workload.epochs * samples


def predict(
    sizes: Sequence[int],
    chosen: int,
    critical: float,
    law: StepTimeLaw,
    ranks: int,
    communication: Communication,
    workload: Workload,
) -> Scaling | None:
    """Time to the same loss over the number of devices; None where it can't be predicted.

    `sizes` (of one rank) were timed with `ranks` ranks, whose communication every further rank adds to in
    equal parts, as the latency of a ring does: where the bandwidth counts instead, more devices are useful.
    `critical`: B_crit over all ranks. No global batch is larger than the data set.
    """
    if ranks < 2 or not isfinite(critical):
        return None
    model = _Model(tuple(sizes), critical, law, ranks, communication, workload.dataset_size)
    numbers = range(1, FARTHEST_PREDICTION * ranks + 1)
    predicted = {n: best for n in numbers if (best := model.best(n)) is not None}
    if not predicted:
        return None
    base = model.seconds(ranks, chosen)
    useful, last = min(predicted, key=lambda n: predicted[n][1]), max(predicted)
    # To the first row beyond the useful number, and at least as far as twice the ranks.
    rows = {1 << k for k in range(last.bit_length())} | {ranks, useful}
    shown = sorted(n for n in rows if n in predicted and n <= max(2 * ranks, 2 * useful))
    counts = tuple(
        DeviceCount(
            devices=n,
            batch_size=chosen if n == ranks else predicted[n][0],
            global_batch_size=n * (chosen if n == ranks else predicted[n][0]),
            relative_time=1.0 if n == ranks else predicted[n][1] / base,
        )
        for n in shown
    )
    return Scaling(counts=counts, useful_devices=useful if useful < last else None)


class _Model:
    """Predicted seconds to a loss, in units of S_min, on n devices with B samples each."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        critical: float,
        law: StepTimeLaw,
        ranks: int,
        communication: Communication,
        dataset_size: int | None,
    ) -> None:
        self._critical = critical
        self._most = dataset_size
        self._added_seconds = communication.seconds / (ranks - 1)
        steps = {size: law.step_seconds_at(size) for size in sizes}
        self._alone = {size: max(seconds - communication.seconds, 0.0) for size, seconds in steps.items()}

    def seconds(self, devices: int, size: int) -> float:
        step_seconds = self._alone[size] + (devices - 1) * self._added_seconds
        return (1 + self._critical / (devices * size)) * step_seconds

    def best(self, devices: int) -> tuple[int, float] | None:
        """(size, seconds) of the best size on so many devices; None where all are too large for the data."""
        fitting = [size for size in self._alone if self._most is None or devices * size <= self._most]
        if not fitting:
            return None
        size = min(fitting, key=lambda each: self.seconds(devices, each))
        return size, self.seconds(devices, size)


def _scaled(check: Check, factor: float) -> Check:
    def times(value: float | None) -> float | None:
        return None if value is None else factor * value

    interval = check.interval
    return replace(
        check,
        noise_scale=times(check.noise_scale),
        critical_batch_size=times(check.critical_batch_size),
        interval=None if interval is None else (factor * interval[0], times(interval[1])),
        noise_points=tuple(
            NoisePoint(
                samples_seen=factor * point.samples_seen,
                batch_size=factor * point.batch_size,
                low=factor * point.low,
            )
            for point in check.noise_points
        ),
    )

"""Pure: a worker's replies as a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from statistics import median

from autobatch.decision import round_statistics
from autobatch.engines import messages
from autobatch.records.trial import Outcome, Trial


def from_try(tried: messages.Tried, outcome: Outcome, dataset_size: int | None) -> Trial:
    """The trial of one try; its throughput is rough, from the quickest step after the first.

    A try on the largest of samples that vary in size has none: only rounds run on typical batches.
    """
    trial = Trial(
        batch_size=tried.batch_size,
        outcome=outcome,
        step_seconds=() if tried.step_seconds is None else (tried.step_seconds,),
        load_seconds=tried.load_seconds,
        peak_bytes=tried.peak_bytes,
        reserved_bytes=tried.reserved_bytes,
        utilisation=tried.utilisation,
        samples=tried.steps * tried.batch_size,
        optimizer_steps=tried.optimizer_steps,
        phase=tried.phase,
        detail=tried.detail,
    )
    return _with_rates(trial, dataset_size) if outcome is Outcome.OK else trial


def from_rounds(
    trial: Trial, rounds: Sequence[messages.Timed], dataset_size: int | None, last: int = 0
) -> Trial:
    """The trial of a try with the times of its rounds in place of the rough one; itself without rounds.

    `last`: only that many of the latest rounds give the time; all of them count as executed.
    """
    if not rounds:
        return trial
    window = rounds[-last:]
    loads = [timed.load_seconds for timed in window if timed.load_seconds is not None]
    usages = [timed.utilisation for timed in window if timed.utilisation is not None]
    retimed = replace(
        trial,
        step_seconds=tuple(timed.step_seconds for timed in window),
        load_seconds=median(loads) if loads else trial.load_seconds,
        utilisation=median(usages) if usages else trial.utilisation,
        samples=trial.samples + sum(timed.steps for timed in rounds) * trial.batch_size,
        optimizer_steps=trial.optimizer_steps + sum(timed.optimizer_steps for timed in rounds),
    )
    return _with_rates(retimed, dataset_size)


def _with_rates(trial: Trial, dataset_size: int | None) -> Trial:
    steps = None if dataset_size is None else ceil(dataset_size / trial.batch_size)
    if not trial.step_seconds:
        return replace(trial, steps_per_epoch=steps)
    rate, interval = round_statistics.throughput(trial.batch_size, trial.step_seconds)
    return replace(
        trial,
        samples_per_second=rate,
        samples_per_second_interval=interval,
        steps_per_epoch=steps,
        epoch_seconds=None if steps is None else steps * median(trial.step_seconds),
    )

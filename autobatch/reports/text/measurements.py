"""Sentences about the measurements behind an answer: what fits, speed, memory, loading, and their age."""

from __future__ import annotations

from autobatch.records.formatting import (
    format_bytes,
    format_count,
    format_moment,
    format_percent,
    format_rate,
    format_short_duration,
)
from autobatch.records.recommendation import INTERRUPTED, Environment, Recommendation, StepTime
from autobatch.records.trial import Ceiling, LimitedBy, Loader, LoaderTiming
from autobatch.records.workload import SampleSizes, Workload
from autobatch.reports.text import row_choice
from autobatch.reports.text.lines import clean, counted


def ceiling_text(ceiling: Ceiling, workload: Workload) -> str:
    """Say which size fits, and why no larger size was found to fit."""
    samples = "" if workload.dataset_size is None else f" of {counted(workload.dataset_size, 'sample')}"
    reasons = {
        LimitedBy.MEMORY: "memory is the limit",
        LimitedBy.PLATEAU: "larger sizes were not tried: throughput stops improving (--ceiling tries them)",
        LimitedBy.DATASET: f"larger sizes were not tried: the data set{samples} ends",
        LimitedBy.BUDGET: "the budget ended before larger sizes",
        LimitedBy.MAX_BATCH: "larger sizes were not allowed",
        LimitedBy.SIZE_LIMIT: "larger sizes fail for a reason other than memory",
    }
    if ceiling.detail == INTERRUPTED:
        reasons[LimitedBy.BUDGET] = "the search was interrupted before larger sizes"
    reach = "up to" if ceiling.limited_by in (LimitedBy.MEMORY, LimitedBy.SIZE_LIMIT) else "at least"
    again = "; it passed again in a fresh process" if ceiling.verified else ""
    return f"{reach} {ceiling.batch_size:,}; {reasons[ceiling.limited_by]}{again}"


def allocator_text(recommendation: Recommendation) -> str:
    """Say what the allocator reserves at the recommended and the largest size; empty on a CPU."""
    if recommendation.device.kind == "cpu":
        return ""
    sizes = (recommendation.batch_size, recommendation.ceiling.batch_size)
    parts = []
    for trial in row_choice.latest(recommendation):
        if trial.batch_size in sizes and None not in (trial.peak_bytes, trial.reserved_bytes):
            allocated, reserved = format_bytes(trial.peak_bytes), format_bytes(trial.reserved_bytes)
            parts.append(f"at {trial.batch_size:,}: {allocated} allocated, {reserved} reserved")
    return "; ".join(parts)


def sizes_text(batch_size: int, sizes: SampleSizes, dataset_size: int | None) -> str:
    """Say which samples the memory was measured on."""
    tokens = sizes.tokens
    longest, median = (sizes.largest, sizes.median) if tokens is None else (tokens.longest, tokens.median)
    count = format_count(longest)
    extent = f"largest {count} numbers" if tokens is None else f"longest {count} tokens"
    extent = f"({extent}, median {format_count(round(median))})"
    if dataset_size is not None and sizes.scanned < dataset_size:
        which, of_all = "the largest of", f", of {format_count(dataset_size)}"
    else:
        whole = batch_size >= sizes.scanned
        which, of_all = "all" if whole else f"the {format_count(batch_size)} largest of", ""
    return f"memory was measured on {which} {counted(sizes.scanned, 'sample')} scanned{of_all} {extent}"


def speed_text(recommendation: Recommendation) -> str:
    """Give the fitted step time and the tokens per second, as far as they are there."""
    step_time, tokens = recommendation.step_time, recommendation.tokens_per_second
    parts = [] if step_time is None else [_step_time_text(step_time)]
    if tokens is not None:
        parts.append(f"{format_rate(tokens)} tokens/s at {recommendation.batch_size:,}")
    return "; ".join(parts)


def _step_time_text(step_time: StepTime) -> str:
    fixed = format_short_duration(step_time.fixed_seconds)
    per_sample = format_short_duration(step_time.sample_seconds)
    error = format_percent(step_time.relative_error)
    return f"step = {fixed} + {per_sample} x batch size, ± {error}"


def loader_text(recommendation: Recommendation, loader: Loader) -> str:
    """Say how fast the current workers load, and how many keep up with the training."""
    current = loader.timings[0]
    given = recommendation.workload.workers is not None
    who = f"your {_workers(current)}" if given else f"{_workers(current)} (torch's default)"
    pace = loader.pace_seconds(current)
    if pace is None:
        return f"a DataLoader with {who} failed"
    text = f"with {who} {_rate(loader, pace)} samples/s at {loader.batch_size:,}, "
    text += f"training alone {_rate(loader, loader.step_seconds)}"
    enough = [timing for timing in loader.timings if timing.workers == loader.sufficient_workers]
    if not enough or enough[0] is current:
        return f"{text}: {'that is enough' if enough else 'loading is the bottleneck'}"
    sufficient = enough[0]
    rate = _rate(loader, loader.pace_seconds(sufficient))
    apart = ", apart from the training" if recommendation.device.kind == "cpu" else ""
    return f"{text}; with {_workers(sufficient)} {rate} (measured{apart})"


def _workers(timing: LoaderTiming) -> str:
    return counted(timing.workers, "worker")


def _rate(loader: Loader, seconds: float | None) -> str:
    return format_rate(loader.batch_size / seconds if seconds else None)


def took_text(environment: Environment | None, *, cached: bool = False) -> str:
    """Say how long the measurements took; for a cached answer, when they were made and how to repeat them."""
    took = "" if environment is None else format_short_duration(environment.elapsed_seconds)
    if not cached:
        return f"Took {took}" if took else ""
    when = "earlier" if environment is None else f"{clean(format_moment(environment.started_at))} in {took}"
    return f"Measured {when}; --fresh measures again"

"""The answer under the tables: what fits, what the check says, what to use and why, and what to mind."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.check import Check, CheckStatus
from autobatch.records.formatting import (
    format_bytes,
    format_count,
    format_moment,
    format_percent,
    format_rate,
    format_short_duration,
)
from autobatch.records.recommendation import AnswerLimit, Comparison, Environment, Recommendation, StepTime
from autobatch.records.trial import Ceiling, LimitedBy, Loader, LoaderTiming
from autobatch.records.workload import SampleSizes, Workload
from autobatch.reports.text import scaling_table, table, training_table
from autobatch.reports.text.lines import Line, clean, counted, hang

SYNTHETIC = "memory and speed only: inputs are random"
UNCHECKED = "quality check: not run; the choice comes from throughput alone"
# A bound this close to 1 says nothing.
_WORTH_TELLING = 1.02


@dataclass(frozen=True, slots=True)
class Statement:
    """A thing to say about an answer: a label, a sentence, and its tone: `` (plain), `use` or `doubt`."""

    label: str
    text: str
    tone: str = ""


_STYLES = {"": ("", "bold"), "use": ("bold green", "bold green"), "doubt": ("", "bold yellow")}


def lines(recommendation: Recommendation, width: int) -> list[Line]:
    """The tables of the check and of the devices, and a labelled line or more for each thing to say."""
    found: list[Line] = []
    for rows in (training_table.lines(recommendation, width), scaling_table.lines(recommendation, width)):
        found += [*rows, ()] if rows else []
    for one in statements(recommendation):
        style, label_style = _STYLES[one.tone]
        found += hang(one.label.ljust(7), one.text, width, style=style, label_style=label_style)
    return found


def statements(recommendation: Recommendation) -> list[Statement]:
    """What every report says of an answer, in this order; each text is on one line and steers nothing."""
    check, workload = recommendation.check, recommendation.workload
    found = [Statement("fits", _ceiling_text(recommendation.ceiling, workload))]
    if (memory := _memory_text(recommendation)) != "":
        found.append(Statement("memory", memory))
    if workload.synthetic:
        found.append(Statement("data", SYNTHETIC, "doubt"))
    if workload.sizes is not None and workload.sizes.vary:
        told = _sizes_text(recommendation.batch_size, workload.sizes, workload.dataset_size)
        found.append(Statement("data", told))
    if (speed := _speed_text(recommendation)) != "":
        found.append(Statement("speed", speed))
    if recommendation.loader is not None and recommendation.loader.timings:
        found.append(Statement("loader", _loader_text(recommendation, recommendation.loader)))
    found += _ranks(recommendation)
    found.append(
        Statement("check", UNCHECKED if check is None else _check_text(check, recommendation.world_size))
    )
    found.append(Statement("use", _use_text(recommendation), "use"))
    found.append(Statement("why", clean(_why_text(recommendation))))
    if recommendation.current is not None:
        found.append(Statement("gain", _gain_text(recommendation.current)))
    if recommendation.schedule:
        found.append(Statement("steps", _schedule_text(recommendation)))
    if recommendation.cached:
        found.append(Statement("cache", _cache_text(recommendation.environment)))
    return found + [Statement("warn", clean(warning), "doubt") for warning in recommendation.warnings]


def _memory_text(recommendation: Recommendation) -> str:
    """What the device's allocator holds beside what the training uses; nothing on a CPU, which has none."""
    if recommendation.device.kind == "cpu":
        return ""
    sizes = (recommendation.batch_size, recommendation.ceiling.batch_size)
    found = []
    for trial in table.latest(recommendation):
        if trial.batch_size in sizes and None not in (trial.peak_bytes, trial.reserved_bytes):
            allocated, reserved = format_bytes(trial.peak_bytes), format_bytes(trial.reserved_bytes)
            found.append(f"at {trial.batch_size}: {allocated} allocated, {reserved} reserved")
    return "; ".join(found)


def _ranks(recommendation: Recommendation) -> list[Statement]:
    """What there is to say of several ranks."""
    texts = []
    if recommendation.communication is not None:
        texts.append(
            scaling_table.communication_text(recommendation.communication, recommendation.world_size)
        )
    if recommendation.scaling is not None and recommendation.scaling.counts:
        texts.append(scaling_table.scaling_text(recommendation.scaling))
    if recommendation.sizes_per_rank is not None:
        texts.append(scaling_table.sizes_text(recommendation.sizes_per_rank))
    return [Statement("ranks", text) for text in texts]


def _check_text(check: Check, ranks: int) -> str:
    if check.critical_batch_size is None or check.interval is None:
        return f"quality check: not run: {clean(check.detail)}; the choice comes from throughput alone"
    low, high = check.interval
    upper = "open" if high is None else f"{high:,.0f}"
    over = f" over {ranks:,} ranks" if ranks > 1 else ""
    found = f"critical batch size {check.critical_batch_size:,.0f}{over} (90%: {low:,.0f} to {upper})"
    return f"{found}, {clean(_evidence(check))}"


def _evidence(check: Check) -> str:
    """What the critical batch size was found from."""
    noise = "from the gradient's noise"
    if check.status is CheckStatus.NOISE_ONLY or not check.trainings:
        return f"{noise} alone" + (f": {check.detail}" if check.detail else "")
    longest = format_short_duration(max(one.seconds for one in check.trainings))
    found = f"{noise} and {len(check.trainings)} trainings of {longest}, judged on {check.held_out}"
    if check.vetoed:
        sizes = ", ".join(f"{veto.batch_size:,}" for veto in check.vetoed)
        found += f"; vetoed: {sizes}"
    return found


def _why_text(recommendation: Recommendation) -> str:
    limits = {
        AnswerLimit.MEMORY: "larger sizes don't fit",
        AnswerLimit.THROUGHPUT: "larger sizes hardly raise the throughput",
        AnswerLimit.GENERALIZATION: "larger sizes need more samples than their throughput makes up for",
        AnswerLimit.VETO: "the next larger size trained worse",
        AnswerLimit.DATASET: "the data set is no larger",
        AnswerLimit.OPTIONS: "larger sizes were not measured",
    }
    by = recommendation.limited_by
    text = recommendation.why + (f"; {limits[by]}" if by is not None else "")
    bound = recommendation.regret_bound
    if bound is not None and bound >= _WORTH_TELLING:
        text += f"; at worst {bound:.2f} times as long as at the best size, by the interval"
    return text


def _speed_text(recommendation: Recommendation) -> str:
    law, tokens = recommendation.step_time, recommendation.tokens_per_second
    parts = [] if law is None else [_law_text(law)]
    if tokens is not None:
        parts.append(f"{format_rate(tokens)} tokens/s at {recommendation.batch_size}")
    return "; ".join(parts)


def _law_text(law: StepTime) -> str:
    fixed, each = format_short_duration(law.fixed_seconds), format_short_duration(law.sample_seconds)
    return f"a step takes {fixed} and {each} a sample, ± {format_percent(law.relative_error)}"


def _loader_text(recommendation: Recommendation, loader: Loader) -> str:
    """What the user's own workers give, and which number keeps up with the training."""
    own = loader.timings[0]
    given = recommendation.workload.workers is not None
    who = f"your {_workers(own)}" if given else f"{_workers(own)} (torch's default)"
    pace = loader.pace_seconds(own)
    if pace is None:
        return f"a DataLoader with {who} failed"
    text = f"with {who} {_rate(loader, pace)} samples/s at {loader.batch_size}, "
    text += f"training alone {_rate(loader, loader.step_seconds)}"
    lifted = next((one for one in loader.timings if one.workers == loader.sufficient_workers), None)
    if lifted is own or lifted is None:
        return f"{text}: {'that is enough' if lifted is own else 'loading sets the pace'}"
    rate = _rate(loader, loader.pace_seconds(lifted))
    verb = "lifts" if lifted.workers == 1 else "lift"
    apart = ", apart from the training" if recommendation.device.kind == "cpu" else ""
    return f"{text}; {_workers(lifted)} {verb} it to {rate} (measured{apart})"


def _workers(timing: LoaderTiming) -> str:
    return counted(timing.workers, "worker")


def _rate(loader: Loader, seconds: float | None) -> str:
    return format_rate(loader.batch_size / seconds if seconds else None)


def _sizes_text(batch_size: int, sizes: SampleSizes, dataset_size: int | None) -> str:
    """Which samples decided on memory."""
    tokens = sizes.tokens
    longest, median = (sizes.largest, sizes.median) if tokens is None else (tokens.longest, tokens.median)
    what = "largest {} numbers" if tokens is None else "longest {} tokens"
    found = f"({what.format(format_count(longest))}, median {format_count(round(median))})"
    if dataset_size is not None and sizes.scanned < dataset_size:
        which, of_all = "the largest of", f", of {format_count(dataset_size)}"
    else:
        whole = batch_size >= sizes.scanned
        which, of_all = "all" if whole else f"the {format_count(batch_size)} largest of", ""
    return f"memory was measured on {which} {counted(sizes.scanned, 'sample')} scanned{of_all} {found}"


def _gain_text(current: Comparison) -> str:
    """How much sooner than at the present size, and what that asks for."""
    text = f"{current.relative_time:.2f} times as quick to the same loss as {current.batch_size:,}"
    text += f" (90%: {current.low:.2f} to {current.high:.2f})"
    return f"{text}, in {current.epochs_ratio:.2f} times as many epochs"


def _schedule_text(recommendation: Recommendation) -> str:
    before = {one.name: one.steps for one in recommendation.workload.schedule}
    parts = [
        f"{clean(one.name)} {one.steps:,}"
        + (f" instead of {before[one.name]:,}" if one.name in before else "")
        for one in recommendation.schedule
    ]
    return f"{', '.join(parts)}: as many samples as before"


def _cache_text(then: Environment | None) -> str:
    """Since when the answer has been there, and how to get another one."""
    when = "earlier"
    if then is not None:
        took = format_short_duration(then.elapsed_seconds)
        when = f"on {clean(format_moment(then.started_at))}, in {took}"
    return f"measured {when}; --fresh measures anew"


def _use_text(recommendation: Recommendation) -> str:
    factors = [f"batch size {recommendation.batch_size}"]
    if recommendation.accumulation_steps != 1:
        factors.append(f"{recommendation.accumulation_steps} accumulation steps")
    if recommendation.world_size != 1:
        factors.append(f"{recommendation.world_size} ranks")
    text = " x ".join(factors)
    if len(factors) > 1:
        text += f" = {recommendation.global_batch_size}"
    if recommendation.learning_rate is not None:
        text += f", learning rate {recommendation.learning_rate:.2g}"
    elif recommendation.learning_rate_factor is not None:
        text += f", learning rates × {recommendation.learning_rate_factor:.3g}"
    return text


def _ceiling_text(ceiling: Ceiling, workload: Workload) -> str:
    samples = "" if workload.dataset_size is None else f" of {counted(workload.dataset_size, 'sample')}"
    reasons = {
        LimitedBy.MEMORY: "memory is the limit",
        LimitedBy.PLATEAU: "larger ones were not tried: throughput no longer rises",
        LimitedBy.DATASET: f"larger ones were not tried: the data set{samples} ends",
        LimitedBy.BUDGET: "larger ones would take more than the time allowed",
        LimitedBy.MAX_BATCH: "larger ones were not allowed",
        LimitedBy.SIZE_LIMIT: "larger ones fail for a reason other than memory",
    }
    reach = "up to" if ceiling.limited_by in (LimitedBy.MEMORY, LimitedBy.SIZE_LIMIT) else "at least"
    again = "; it passed again in a fresh process" if ceiling.verified else ""
    return f"{reach} {ceiling.batch_size}; {reasons[ceiling.limited_by]}{again}"

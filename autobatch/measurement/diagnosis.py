"""Pure: the meaning of a climb's trials in words, as errors or as warnings."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from autobatch.decision.constants import MAX_REPEATS, RESOLUTION
from autobatch.decision.memory_forecast import live_bytes
from autobatch.decision.trial_set import TrialSet
from autobatch.devices.oom import Cause
from autobatch.engines import messages
from autobatch.records.device import Device
from autobatch.records.errors import AutobatchError, DeviceError, TargetError, UsageError
from autobatch.records.formatting import format_bytes, format_duration
from autobatch.records.limits import Limits
from autobatch.records.trial import MemoryLine, Outcome, Trial

# Begins every warning about memory that grows from step to step.
GROWING = "memory grows by"


def is_too_large(trial: Trial) -> bool:
    """True for a failure caused by too little memory."""
    return trial.outcome is Outcome.OUT_OF_MEMORY


def nothing_passed(
    trials: Sequence[Trial], device: Device, predicted: Sequence[MemoryLine] = ()
) -> AutobatchError:
    """The error for a climb in which no size passed at all.

    `predicted`: the bytes alive in a step, from a trace, as the highest of these lines; empty without one.
    """
    trial = trials[-1]
    size = trial.batch_size
    if trial.outcome is Outcome.TIMEOUT:
        return UsageError(
            f"batch size {size} did not finish in time on {device.label}",
            code="trial_timeout",
            facts=(trial.detail, f"in the {trial.phase} phase"),
            hint="raise `--budget` or `--trial-timeout`",
        )
    if trial.outcome is Outcome.CRASHED:
        return TargetError(
            f"the worker process dies at batch size {size}",
            code="worker_died",
            facts=(trial.detail, f"in the {trial.phase} phase, twice"),
            hint="run one training step of your own with this batch size",
        )
    facts = [trial.detail]
    if device.limit_bytes is not None:
        facts.append(f"training may take {format_bytes(device.limit_bytes)} ({device.limit_source})")
    for user in device.memory_users:
        held = "memory" if user.memory_bytes is None else format_bytes(user.memory_bytes)
        facts.append(f"{held} is held by pid {user.pid} (`{user.name}`)")
    facts += _parts(predicted, size)
    lower = "lower `--min-batch`, " if size > 1 else ""
    free = "raise `--memory-limit`" if device.limit_source == "`--memory-limit`" else "free memory there"
    return DeviceError(
        f"batch size {size} does not fit on {device.label}",
        code="nothing_fits",
        facts=tuple(facts),
        hint=f"{lower}{free}, or use {_remedy(predicted, device.limit_bytes)}",
    )


def _parts(predicted: Sequence[MemoryLine], size: int) -> list[str]:
    """The fixed and the growing part of a step's memory: activation checkpointing saves the growing one."""
    if not predicted:
        return []
    fixed = _fixed_bytes(predicted)
    grown = max(0.0, live_bytes(predicted, size) - fixed)
    return [
        f"predicted by a trace: {format_bytes(fixed)} of parameters, gradients and optimizer state, "
        f"{format_bytes(int(grown))} of activations at batch size {size}"
    ]


def _remedy(predicted: Sequence[MemoryLine], limit_bytes: int | None) -> str:
    """The remedy for a step that is too large for the device."""
    if predicted and limit_bytes is not None and _fixed_bytes(predicted) >= limit_bytes:
        return "a smaller model: activation checkpointing can't help, since it saves activations only"
    return "activation checkpointing (`torch.utils.checkpoint`) or a smaller model"


def _fixed_bytes(predicted: Sequence[MemoryLine]) -> int:
    return max(0, int(max(line.fixed_bytes for line in predicted)))


def uncounted(compile_seconds: float) -> tuple[str, ...]:
    """Warnings about time that the budget does not count."""
    if compile_seconds < 1:
        return ()
    return (f"compiling took {format_duration(compile_seconds)} beside the budget by the end of the search",)


def nothing_to_try(limits: Limits, cap: int, reason: str, dataset_size: int | None) -> UsageError:
    """The error for limits that leave no size between the smallest and the largest."""
    return UsageError(
        f"no batch size can be tried: the smallest is {limits.smallest}, the largest {cap}",
        code="bad_limit",
        facts=(f"the largest is set by: {reason}", f"samples in the data set: {dataset_size}"),
        hint="lower `--min-batch` or `--multiple-of`",
    )


def checked(tried: messages.Tried) -> messages.Tried:
    """The try, or a failure in its place where its steps passed and did not train."""
    if tried.outcome is not Outcome.OK:
        return tried
    if not tried.finite:
        return _failed(tried, not_finite(tried.batch_size), "the loss is not a finite number")
    if tried.steps and not tried.optimizer_steps + tried.skipped_steps:
        return _failed(tried, no_optimizer_step(tried), "the training step does not step its optimizer")
    return tried


def _failed(tried: messages.Tried, error: AutobatchError, detail: str) -> messages.Tried:
    return messages.Tried(
        batch_size=tried.batch_size,
        outcome=Outcome.FAILED,
        steps=tried.steps,
        detail=detail,
        cause=Cause.USER_ERROR,
        error=messages.Refused.of(error),
    )


def may_be_of_state(tried: messages.Tried) -> bool:
    """True for an error that an earlier size may have caused, by state that the training keeps."""
    ended = tried.error is not None and tried.error.code == "stream_ended"
    return tried.outcome is Outcome.FAILED and tried.cause is not Cause.PEER and not ended


def needs_fresh_processes(size: int, detail: str) -> str:
    """The warning for state that only a fresh process is without. `detail`: the error with that state."""
    return (
        f"the model keeps state from batch to batch: batch size {size:,} failed after other sizes "
        f"({detail}) and passed in a fresh process, so each was measured in its own: reset that state where "
        "the size changes"
    )


def keeps_state(attributes: Sequence[str]) -> str:
    """The warning for attributes of a model that don't go with a batch of another size."""
    names = ", ".join(f"`{name}`" for name in attributes[:3])
    return (
        f"the model keeps state from batch to batch ({names}), and a batch of another size fails with it: "
        "reset it there, as before a smaller last batch"
    )


def stops_training(size: int) -> str:
    """The warning for a step that trains at first only, as a loop with a maximum of steps."""
    return (
        f"after some steps the training step at batch size {size:,} no longer steps its optimizer, so its "
        "throughput comes from the first steps: leave a maximum of steps out of it"
    )


def growing_memory(trial: Trial, grown_bytes: int, limit_bytes: int | None, epochs: float | None) -> str:
    """The warning for memory that grows from step to step until a training runs out of it; else empty.

    `grown_bytes`: memory that every step added at least. Where the length of the training is unknown, growth
    counts if a step adds a notable part of the peak, or an epoch a notable part of the memory that is left.
    """
    peak_bytes = trial.peak_bytes or 0
    if limit_bytes is None or not trial.ok or grown_bytes <= 0:
        return ""
    left_bytes = max(0, limit_bytes - peak_bytes)
    last_step = left_bytes / grown_bytes
    if epochs is not None and trial.steps_per_epoch is not None:
        is_harmless = last_step >= epochs * trial.steps_per_epoch
    else:
        epoch_bytes = grown_bytes * (trial.steps_per_epoch or 0)
        is_harmless = grown_bytes < RESOLUTION * peak_bytes and epoch_bytes < RESOLUTION * left_bytes
    if is_harmless:
        return ""
    return (
        f"{GROWING} {format_bytes(grown_bytes)} a step at batch size {trial.batch_size:,}, so training "
        f"runs out of it after about {last_step:,.0f} steps: detach what is kept, such as a running loss"
    )


def no_optimizer_step(tried: messages.Tried) -> TargetError:
    """The error for a loop that does not train: its memory and its time would mean nothing."""
    return TargetError(
        "the training step does not step its optimizer",
        code="no_optimizer_step",
        facts=(f"{tried.steps} training steps made {tried.optimizer_steps} optimizer steps",),
        hint="call `optimizer.step()` of the optimizer that the step is given, once a batch",
    )


def not_finite(size: int) -> TargetError:
    """The error for a loss that is NaN or infinite from the start."""
    return TargetError(
        "the loss is not a finite number from the first steps on",
        code="loss_not_finite",
        facts=(f"batch size {size}, with the optimizer and learning rate of the target",),
        hint="check the inputs for NaN, and the learning rate",
    )


def floor_and_holes(trial_set: TrialSet) -> list[str]:
    """Warnings about sizes that fail, but not for memory: below, between and above those that pass."""
    latest = trial_set.latest
    passed = [trial.batch_size for trial in trial_set.passed]
    errors = sorted(size for size, trial in latest.items() if trial.outcome is Outcome.FAILED)
    common = gcd(*passed)
    uneven = [size for size in errors if size % common]
    texts = []
    if any(passed[0] < size < passed[-1] for size in uneven):
        texts.append(
            f"batch size {', '.join(f'{size:,}' for size in uneven[:3])} can't be trained, and multiples of "
            f"{common} can ({latest[uneven[-1]].detail}): set `--multiple-of {common}`, and leave out a last "
            "batch of another size"
        )
        errors = [size for size in errors if size not in uneven]
    below = [size for size in errors if size < passed[0]]
    between = [size for size in errors if passed[0] < size < passed[-1]]
    above = [size for size in errors if size > passed[-1]]
    if below:
        texts.append(
            f"batch sizes below {passed[0]:,} can't be trained ({latest[below[-1]].detail}): leave out a "
            f"last batch as small as that, and skip these sizes with `--min-batch {passed[0]}`"
        )
    texts += [
        f"batch size {size:,} can't be trained, though smaller and larger ones can: {latest[size].detail}"
        for size in between
    ]
    if above:
        texts.append(f"batch sizes from {above[0]:,} on can't be trained: {latest[above[0]].detail}")
    return texts


def warnings(trial_set: TrialSet, device: Device) -> tuple[str, ...]:
    """Facts that a reader needs before trusting the figures."""
    passed = [trial for trial in trial_set.trials if trial.ok]
    texts = list(device.notes)
    texts += floor_and_holes(trial_set)
    gains = {trial.batch_size: trial.gain for trial in passed if trial.gain is not None}
    undecided = sorted(
        size for size, gain in gains.items() if gain.rounds == MAX_REPEATS and not gain.decided
    )
    if undecided:
        sizes = ", ".join(f"{size:,}" for size in undecided)
        texts.append(
            f"batch size {sizes} and the best smaller size are too close to call: rerun on an idle machine"
        )
    crashed = sorted(
        {t.batch_size for t in trial_set.trials if t.outcome is Outcome.CRASHED}
        & {t.batch_size for t in passed}
    )
    if crashed:
        texts.append(
            f"the worker died once at batch size {', '.join(map(str, crashed))}, and passed when tried again"
        )
    return tuple(texts)

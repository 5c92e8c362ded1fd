"""Errors for scripts that can't be measured, each with its code, its evidence, and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autobatch.records.errors import TargetError, UsageError
from autobatch.scripts.knob import names_batch_size
from autobatch.scripts.messages import Observation, Sighting

# Candidates for a batch size that an error names.
_MOST_SEEN = 3

_PLACEHOLDER_HINT = (
    "write `{batch_size}` where your command sets it, such as `--bs {batch_size}`, "
    "`train.batch_size={batch_size}` or `BS={batch_size} python train.py`"
)


def cannot_start(word: str, error: OSError) -> UsageError:
    return UsageError(
        f"`{word}` can't be started",
        code="cannot_start",
        facts=(error.strerror or str(error),),
        hint="write the command as you would run it in this folder",
    )


def of_event(kind: str, event: dict[str, Any]) -> TargetError | None:
    """The error for an event of a watched process; None for one that is no reason to stop."""
    if kind == "closure_again":
        return TargetError(
            f"the script trains with {event['optimizer']}, which computes the loss several times a step",
            code="closure_optimizer",
            facts=("a step has no fixed cost, and its batch must not change within a step",),
            hint="batch size tuning needs an optimizer with one gradient per step, such as SGD or Adam",
        )
    if kind == "own_updates":
        return TargetError(
            "the script updates its parameters by itself, without an optimizer",
            code="own_updates",
            facts=("parameters changed between backward passes, and no optimizer made a step",),
            hint="use a `torch.optim` optimizer, or give `autobatch probe` a model file",
        )
    if kind == "touches_file":
        return TargetError(
            f"the script {event['what']} a file that was there before",
            code="touches_files",
            facts=(f"`{event['path']}`",),
            hint="measure in a copy of the folder, or switch that off for the measurement",
        )
    return no_steps() if kind == "no_steps" and event.get("backwards") else None


def no_torch(output: Sequence[str] = ()) -> TargetError:
    return TargetError(
        "no Python of the command imported torch",
        code="no_torch",
        facts=tuple(output),
        hint="give the command that trains; Python's own `-I`, `-E` and `-S` keep autobatch out",
    )


def no_steps() -> TargetError:
    return TargetError(
        "the command ended without a step of an optimizer",
        code="no_steps",
        facts=("torch was imported, but nothing was trained by `torch.optim` or Keras",),
        hint="give the command that trains",
    )


def too_few_steps(observed: Observation) -> TargetError:
    return TargetError(
        f"the training ends after {observed.steps} steps, which is too short to measure",
        code="too_few_steps",
        facts=(f"batch size {observed.batch_size}",),
        hint="measure with more epochs or samples",
    )


def full_batch(observed: Observation) -> TargetError:
    shape = "x".join(map(str, observed.shape))
    return TargetError(
        "every step of the script trains on one and the same input",
        code="full_batch",
        facts=(f"an input of shape {shape}, without a DataLoader",),
        hint="full-batch training has no batch size to tune; sample mini-batches first",
    )


def no_knob(observed: Observation) -> TargetError:
    """The error for a batch size that was not found: where the step is, and every number that may be it."""
    shape = "x".join(map(str, observed.shape)) or "unknown"
    place = f"{observed.step_file}:{observed.step_line}"
    loader = observed.loader
    facts = [
        f"a step of {observed.optimizer} at {place}: {observed.backwards} backward passes, input {shape}",
        "no DataLoader was used in training" if loader is None else "the loader keeps its size",
    ]
    sized = [sighting for sighting in observed.sightings if names_batch_size(sighting.name)]
    facts += [_seen(sighting) for sighting in sized[:_MOST_SEEN]]
    return TargetError(
        "the script's batch size was not found",
        code="no_batch_size",
        facts=tuple(facts),
        hint=_PLACEHOLDER_HINT,
    )


def _seen(sighting: Sighting) -> str:
    if sighting.flags:
        return f"seen: `{sighting.flags[0]}` is {sighting.value:g}"
    return f"seen: the variable `{sighting.name}` is {sighting.value:g}; a placeholder has to set it"


def not_proven(observed: int | None, wanted: int, how: str) -> TargetError:
    return TargetError(
        f"setting the batch size by {how} had no effect",
        code="not_proven",
        facts=(
            f"{wanted:,} was set, steps had {'no known number of' if observed is None else observed} samples",
        ),
        hint=_PLACEHOLDER_HINT,
    )


def fixed_size(current: int, details: Sequence[str]) -> TargetError:
    return TargetError(
        f"the script trains at its own batch size alone, {current:,}",
        code="fixed_batch_size",
        facts=tuple(details)[:_MOST_SEEN],
        hint="its code may use the size in other places too: make it an option there, and "
        + _PLACEHOLDER_HINT,
    )


def slow_start(seconds: float, output: Sequence[str]) -> TargetError:
    return TargetError(
        f"the command made no optimizer steps within {seconds:.0f} s",
        code="slow_start",
        facts=tuple(output)[-3:],
        hint="measure without compilation and downloads, or with fewer data to prepare",
    )


def script_fails(detail: str, output: Sequence[str]) -> TargetError:
    return TargetError(
        "the command fails before its first steps",
        code="script_fails",
        facts=(detail, *tuple(output)[-5:]),
        hint="run the command by itself first",
    )

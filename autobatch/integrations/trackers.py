"""An answer in the user's experiment tracker: MLflow, TensorBoard or Weights & Biases, none of them imported.

Which one it is shows by what the given object can do, so none has to be installed, and loggers that offer
the same methods work as well.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from math import isfinite
from typing import Any

from autobatch.records.errors import UsageError
from autobatch.records.escaping import printable
from autobatch.records.recommendation import Recommendation
from autobatch.reports.text import terminal

PREFIX = "autobatch/"
_EXPECTED = (
    "MLflow: the `mlflow` module, a run of `mlflow.start_run()`, or an `MlflowClient` with `run_id=`",
    "Weights & Biases: a run of `wandb.init()`",
    "TensorBoard: a `SummaryWriter`",
)
# Values of MLflow may be no longer; the report of a long search may be.
_LONGEST_TAG = 4000

Parameter = int | float | str


def log(recommendation: Recommendation, run: Any, *, run_id: str | None = None) -> None:
    """Writes the answer to a run: batch size and learning rate, figures over batch size, the report as text.

    Every name begins with `autobatch/`, so none of the run's own is touched. `run_id` goes with an
    `MlflowClient`. Raises UsageError where `run` is none of the three, and where the MLflow run has another
    answer already, since its parameters never change.
    """
    if _has(run, "add_hparams", "add_scalar", "add_text"):
        return _to_tensorboard(recommendation, run)
    if _has(run, "config.update", "summary.update") and _takes(run.config.update, "allow_val_change"):
        return _to_wandb(recommendation, run)
    client, found = _mlflow(run, run_id)
    if client is not None and found is not None:
        return _to_mlflow(recommendation, client, found)
    raise UsageError(
        f"`{printable(type(run).__name__)}` is no run that an answer can be logged to",
        code="not_a_run",
        facts=_EXPECTED,
        hint="give one of these: `trackers.log(found, run)`",
    )


def parameters(recommendation: Recommendation) -> dict[str, Parameter]:
    """What to train with, without what no check has found."""
    given = {
        "batch_size": recommendation.batch_size,
        "accumulation_steps": recommendation.accumulation_steps,
        "world_size": recommendation.world_size,
        "global_batch_size": recommendation.global_batch_size,
        "learning_rate": recommendation.learning_rate,
        "learning_rate_factor": recommendation.learning_rate_factor,
        "objective": str(recommendation.limits.objective),
        "device": printable(recommendation.device.name),
    }
    return {PREFIX + name: value for name, value in given.items() if value is not None and _finite(value)}


def figures(recommendation: Recommendation) -> dict[str, float]:
    """What was measured of the recommended size, and what the check says of it."""
    chosen, check, current = recommendation.chosen, recommendation.check, recommendation.current
    given = {
        "samples_per_second": chosen.samples_per_second,
        "peak_bytes": chosen.peak_bytes,
        "ceiling": recommendation.ceiling.batch_size,
        "critical_batch_size": None if check is None else check.critical_batch_size,
        "gain": None if current is None else current.relative_time,
    }
    return {
        PREFIX + name: float(value) for name, value in given.items() if value is not None and _finite(value)
    }


def curves(recommendation: Recommendation) -> list[tuple[str, int, float]]:
    """(name, batch size, figure) of the sizes that passed: throughput and memory over batch size."""
    found = []
    for trial in recommendation.trials:
        if trial.ok:
            for name in ("samples_per_second", "peak_bytes"):
                value = getattr(trial, name)
                if value is not None and _finite(value):
                    found.append((f"{PREFIX}trials/{name}", trial.batch_size, float(value)))
    return found


def _to_tensorboard(recommendation: Recommendation, writer: Any) -> None:
    """A scalar for each size, with the batch size in place of the step, and the report as a text."""
    for name, size, value in curves(recommendation):
        writer.add_scalar(name, value, size)
    writer.add_text(f"{PREFIX}report", _indented(terminal.render(recommendation)))
    # Else the row of this answer gets a folder that is named like the time.
    named = [name for name in ("run_name", "name") if _takes(writer.add_hparams, name)]
    writer.add_hparams(
        parameters(recommendation), figures(recommendation), **dict.fromkeys(named, PREFIX.rstrip("/"))
    )
    writer.flush()


def _to_wandb(recommendation: Recommendation, run: Any) -> None:
    """In the configuration and the summary; the history stays the training's own, with its steps."""
    run.config.update(parameters(recommendation), allow_val_change=True)
    run.summary.update({**figures(recommendation), f"{PREFIX}why": printable(recommendation.why)})


def _to_mlflow(recommendation: Recommendation, client: Any, run_id: str) -> None:
    """Parameters once, since they never change, a metric for each size, and the report as a tag."""
    given = parameters(recommendation)
    _refuse_another_answer(given, client.get_run(run_id).data.params)
    for name, value in given.items():
        client.log_param(run_id, name, value)
    for name, value in figures(recommendation).items():
        client.log_metric(run_id, name, value)
    for name, size, value in curves(recommendation):
        client.log_metric(run_id, name, value, step=size)
    client.set_tag(run_id, f"{PREFIX}report", terminal.render(recommendation)[:_LONGEST_TAG])


def _mlflow(run: Any, run_id: str | None) -> tuple[Any | None, str | None]:
    """(client, id of the run) of the module, a run, or a client with `run_id`; else (None, None)."""
    if run_id is not None:
        # The module has methods of the same names that take no id.
        is_client = _has(run, "log_param", "get_run") and not _has(run, "active_run")
        return (run, run_id) if is_client else (None, None)
    if _has(run, "MlflowClient", "active_run"):
        active = run.active_run() or run.start_run()
        return run.MlflowClient(), active.info.run_id
    # A run can only come from a process that has imported MLflow already.
    if _has(run, "info.run_id", "data") and "mlflow" in sys.modules:
        return sys.modules["mlflow"].MlflowClient(), run.info.run_id
    return None, None


def _refuse_another_answer(given: Mapping[str, Parameter], there: Mapping[str, str]) -> None:
    other = [name for name, value in given.items() if name in there and there[name] != str(value)]
    if other:
        facts = tuple(f"`{name}` is {printable(there[name])}, now {given[name]}" for name in other)
        raise UsageError(
            "this MLflow run has another answer already, and its parameters can't be changed",
            code="answer_logged",
            facts=facts,
            hint="log to a new run",
        )


def _has(thing: Any, *names: str) -> bool:
    """True where each dotted name is there and isn't None."""
    for name in names:
        found = thing
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            return False
    return True


def _takes(function: Any, name: str) -> bool:
    """True where a function has an argument of this name; of a built-in one nothing is known."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _finite(value: Parameter) -> bool:
    return isinstance(value, str) or isfinite(value)


def _indented(report: str) -> str:
    """As Markdown shows it letter for letter."""
    return "\n".join(f"    {line}" for line in report.split("\n"))

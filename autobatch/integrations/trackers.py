"""Log a recommendation to an experiment tracker: MLflow, TensorBoard or Weights & Biases.

The methods of the given object show which tracker it is. So none is imported or has to be installed, and
loggers with the same methods work as well.
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
# MLflow's limit for a value, which the report of a long search may exceed.
_LONGEST_TAG = 4000

Parameter = int | float | str


def log(recommendation: Recommendation, run: Any, *, run_id: str | None = None) -> None:
    """Write the answer to a run: batch size and learning rate, figures over batch size, the report as text.

    Every name begins with `autobatch/`, so that no other name of the run changes. `run_id` goes with an
    `MlflowClient`. Raises UsageError where `run` is not from one of the three trackers, and where the MLflow
    run already has another answer, because its parameters can't change.
    """
    if _has(run, "add_hparams", "add_scalar", "add_text"):
        return _to_tensorboard(recommendation, run)
    if _has(run, "config.update", "summary.update") and _takes(run.config.update, "allow_val_change"):
        return _to_wandb(recommendation, run)
    client, mlflow_run_id = _mlflow(run, run_id)
    if client is not None and mlflow_run_id is not None:
        return _to_mlflow(recommendation, client, mlflow_run_id)
    raise UsageError(
        f"`{printable(type(run).__name__)}` is no run that an answer can be logged to",
        code="not_a_run",
        facts=_EXPECTED,
        hint="give a run of one of these: `trackers.log(recommendation, run)`",
    )


def parameters(recommendation: Recommendation) -> dict[str, Parameter]:
    """The settings to train with, without those that no check gave."""
    values = {
        "batch_size": recommendation.batch_size,
        "accumulation_steps": recommendation.accumulation_steps,
        "world_size": recommendation.world_size,
        "global_batch_size": recommendation.global_batch_size,
        "learning_rate": recommendation.learning_rate,
        "learning_rate_factor": recommendation.learning_rate_factor,
        "objective": str(recommendation.limits.objective),
        "decision": None if recommendation.decision is None else str(recommendation.decision.action),
        "device": printable(recommendation.device.name),
    }
    return {PREFIX + name: value for name, value in values.items() if value is not None and _finite(value)}


def figures(recommendation: Recommendation) -> dict[str, float]:
    """The measurements of the recommended size, the results of the check, and those of the decision.

    `speedup`: of the recommended size over the current one, at the same epochs.
    """
    chosen, check, current = recommendation.chosen, recommendation.check, recommendation.current
    decision, size = recommendation.decision, recommendation.batch_size
    answers = (row for row in recommendation.same_epochs if row.batch_size == size)
    answer = next(answers, None)
    values = {
        "samples_per_second": chosen.samples_per_second,
        "peak_bytes": chosen.peak_bytes,
        "ceiling": recommendation.ceiling.batch_size,
        "critical_batch_size": None if check is None else check.critical_batch_size,
        "gain": None if current is None else current.relative_time,
        "confidence": None if decision is None else decision.confidence,
        "speedup": None if answer is None else answer.speedup,
    }
    return {
        PREFIX + name: float(value) for name, value in values.items() if value is not None and _finite(value)
    }


def curves(recommendation: Recommendation) -> list[tuple[str, int, float]]:
    """(name, batch size, figure) of the sizes that passed: throughput and memory over batch size."""
    points = []
    for trial in recommendation.trials:
        if trial.ok:
            for name in ("samples_per_second", "peak_bytes"):
                value = getattr(trial, name)
                if value is not None and _finite(value):
                    points.append((f"{PREFIX}trials/{name}", trial.batch_size, float(value)))
    return points


def _to_tensorboard(recommendation: Recommendation, writer: Any) -> None:
    """Log a scalar for each size, with the batch size in place of the step, and the report as a text."""
    for name, size, value in curves(recommendation):
        writer.add_scalar(name, value, size)
    writer.add_text(f"{PREFIX}report", _indented(terminal.render(recommendation, verbose=True)))
    # Without a name, the row of this answer gets a folder that is named after the time.
    named = [name for name in ("run_name", "name") if _takes(writer.add_hparams, name)]
    writer.add_hparams(
        parameters(recommendation), figures(recommendation), **dict.fromkeys(named, PREFIX.rstrip("/"))
    )
    writer.flush()


def _to_wandb(recommendation: Recommendation, run: Any) -> None:
    """Log to the configuration and the summary; the history keeps only the training's steps."""
    run.config.update(parameters(recommendation), allow_val_change=True)
    run.summary.update({**figures(recommendation), f"{PREFIX}why": printable(recommendation.why)})


def _to_mlflow(recommendation: Recommendation, client: Any, run_id: str) -> None:
    """Log parameters, which can't change later, a metric for each size, and the report as a tag."""
    values = parameters(recommendation)
    _refuse_another_answer(values, client.get_run(run_id).data.params)
    for name, value in values.items():
        client.log_param(run_id, name, value)
    for name, value in figures(recommendation).items():
        client.log_metric(run_id, name, value)
    for name, size, value in curves(recommendation):
        client.log_metric(run_id, name, value, step=size)
    client.set_tag(run_id, f"{PREFIX}report", terminal.render(recommendation, verbose=True)[:_LONGEST_TAG])


def _mlflow(run: Any, run_id: str | None) -> tuple[Any | None, str | None]:
    """(client, id of the run) of the module, a run, or a client with `run_id`; else (None, None)."""
    if run_id is not None:
        # The module has methods of the same names that take no id.
        is_client = _has(run, "log_param", "get_run") and not _has(run, "active_run")
        return (run, run_id) if is_client else (None, None)
    if _has(run, "MlflowClient", "active_run"):
        active = run.active_run() or run.start_run()
        return run.MlflowClient(), active.info.run_id
    # An MLflow run can only come from a process that has imported MLflow.
    if _has(run, "info.run_id", "data") and "mlflow" in sys.modules:
        return sys.modules["mlflow"].MlflowClient(), run.info.run_id
    return None, None


def _refuse_another_answer(values: Mapping[str, Parameter], logged: Mapping[str, str]) -> None:
    changed = [name for name, value in values.items() if name in logged and logged[name] != str(value)]
    if changed:
        facts = tuple(f"`{name}` is {printable(logged[name])}, now {values[name]}" for name in changed)
        raise UsageError(
            "this MLflow run already has another answer, and its parameters can't change",
            code="answer_logged",
            facts=facts,
            hint="log to a new run",
        )


def _has(thing: Any, *names: str) -> bool:
    """True where `thing` has each dotted name, with a value other than None."""
    for name in names:
        value = thing
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is None:
            return False
    return True


def _takes(function: Any, name: str) -> bool:
    """True where a function has an argument of this name; False for built-ins without a signature."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _finite(value: Parameter) -> bool:
    return isinstance(value, str) or isfinite(value)


def _indented(report: str) -> str:
    """The report as a Markdown code block."""
    return "\n".join(f"    {line}" for line in report.split("\n"))

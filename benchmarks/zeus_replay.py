"""Replay the recommender's rule on recorded GPU trainings: its time relative to the best batch size.

    python benchmarks/zeus_replay.py --data FOLDER [--save FILE]

FOLDER holds the public Zeus traces (see benchmarks/README.md): epochs to a target by batch size and run, and
time per epoch by GPU. For each GPU, task and run, the critical batch size is fitted to the *other* runs by
`critical_batch.posterior`, from a flat prior; `critical_batch.pick` then chooses. Regret is the chosen size's
time to the target in the scored run over the best size's. A run that never reaches it counts as 600 epochs.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean

import autobatch
from autobatch.decision import critical_batch
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.step_time import StepTimeLaw, fit_step_time

GPUS = ("v100", "a40")
NEVER_EPOCHS = 600.0


@dataclass(frozen=True)
class Task:
    """A training: its target metric, optimizer, samples, and the batch size of its authors."""

    name: str
    target: float
    optimizer: str
    samples: int
    default: int


TASKS = (
    Task("cifar100", 0.60, "adadelta", 50_000, 1024),
    Task("librispeech", 40.0, "adamw", 132_000, 192),
    Task("squad", 84.0, "adamw", 87_600, 32),
)
RULES = ("autobatch", "default", "fastest throughput", "largest")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the traces")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    regrets: dict[str, dict[str, list[float]]] = {rule: {} for rule in RULES}
    for gpu in GPUS:
        for task in TASKS:
            for rule, values in score(options.data, gpu, task).items():
                regrets[rule][f"{gpu} {task.name}"] = values
    print(table(regrets))
    if options.save:
        options.save.write_text(json.dumps(document(regrets), indent=1) + "\n")


def score(data: Path, gpu: str, task: Task) -> dict[str, list[float]]:
    """The regret of each rule in each run of a task on a GPU."""
    epochs = epochs_to_target(data, task)
    epoch_seconds = {size: t for size, t in seconds_per_epoch(data, gpu, task).items() if size in epochs}
    sizes = sorted(epoch_seconds)
    steps = fit_step_time(sizes, [(epoch_seconds[size] * size / task.samples,) for size in sizes])
    regrets: dict[str, list[float]] = {rule: [] for rule in RULES}
    for run in range(max(len(epochs[size]) for size in sizes)):
        times = {
            size: min(epochs[size][run % len(epochs[size])], NEVER_EPOCHS) * epoch_seconds[size]
            for size in sizes
        }
        chosen = {
            "autobatch": choose(sizes, epochs, run, task, steps),
            "default": task.default,
            "fastest throughput": min(sizes, key=epoch_seconds.__getitem__),
            "largest": max(sizes),
        }
        for rule, size in chosen.items():
            regrets[rule].append(times[size] / min(times.values()))
    return regrets


def choose(
    sizes: list[int], epochs: dict[int, list[float]], scored_run: int, task: Task, steps: StepTimeLaw
) -> int:
    """autobatch's choice, with the critical batch size fitted to all runs except the scored run."""
    spread = CriticalBatchSize(
        batch_size=math.exp(fmean(map(math.log, sizes))), low=1.0, high=1e9, log_sd=3.0
    )
    observed = [
        (size, count * task.samples / size)
        for size in sizes
        for run, count in enumerate(epochs[size])
        if math.isfinite(count) and run != scored_run % len(epochs[size])
    ]
    return critical_batch.pick(
        sizes, critical_batch.posterior(spread, observed), steps, current_size=task.default
    ).batch_size


def epochs_to_target(data: Path, task: Task) -> dict[int, list[float]]:
    """Epochs to the target by batch size, a value for each run; infinite where the run never reached it."""
    epochs_by_size: dict[int, list[float]] = defaultdict(list)
    for row in _rows(data / "summary_train.csv", task):
        if math.isclose(float(row["target_metric"]), task.target):
            epochs = float(row["target_epoch"] or "inf")
            epochs_by_size[int(row["batch_size"])].append(epochs if math.isfinite(epochs) else math.inf)
    return dict(epochs_by_size)


def seconds_per_epoch(data: Path, gpu: str, task: Task) -> dict[int, float]:
    """Seconds by batch size at the highest power limit."""
    readings: dict[int, tuple[float, float]] = {}
    for row in _rows(data / f"summary_power_{gpu}.csv", task):
        reading = (float(row["power_limit"]), float(row["time_per_epoch"]))
        readings[int(row["batch_size"])] = max(readings.get(int(row["batch_size"]), reading), reading)
    return {size: seconds for size, (_, seconds) in readings.items()}


def _rows(path: Path, task: Task) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if (row["dataset"], row["optimizer"]) == (task.name, task.optimizer):
                yield row


def table(regrets: dict[str, dict[str, list[float]]]) -> str:
    """The mean over GPUs and tasks, the worst run, and for each GPU and task mean and range over runs."""
    lines = []
    for rule, cells in regrets.items():
        mean, worst = fmean(map(fmean, cells.values())), max(map(max, cells.values()))
        lines.append(f"{rule:20} mean {mean:6.3f}   worst {worst:6.2f}")
        for cell, values in cells.items():
            span = f"{min(values):.2f} to {max(values):.2f}"
            lines.append(f"    {cell:18} {fmean(values):6.3f}   {span} in {len(values)} runs")
    return "\n".join(lines)


def document(regrets: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    """The figures, with the versions behind them."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "autobatch": autobatch.__version__,
        "python": platform.python_version(),
        "regret": {
            rule: {"mean": fmean(map(fmean, cells.values())), **cells} for rule, cells in regrets.items()
        },
    }


if __name__ == "__main__":
    main()

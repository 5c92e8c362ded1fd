"""The exhaustive oracle: steps to each task's target, over batch sizes, learning rates and seeds.

    python benchmarks/oracle.py [--tasks NAME ...] [--print]

Each training is appended to results/oracle.jsonl when it ends, and recorded trainings don't run again, so it
can be interrupted at any time. Learning rates are the task's rate times powers of two. At each size the first
rate follows from the task's scaling rule and the best rate of the next size. More rates are tried until the
best has a worse rate on either side. Rates close to the best get all seeds. A size's value is the smallest,
over learning rates, of the geometric mean of the steps over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean, stdev

import torch
from tasks import TASKS, Task
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results" / "oracle.jsonl"
# Between two evaluations of the held-out loss, training continues for a tenth of the steps so far.
EVALUATE_EVERY = 1.1
# A learning rate is out where its first seed takes this many times the steps of the best rate so far.
CONTENDS = 1.5
# At a size without runs: times the steps that the next size suggests.
PATIENCE = 3.0
# At the first size of a task.
MOST_EPOCHS = 100


@dataclass(frozen=True)
class Run:
    """A training: the `steps` to the target, None if it was not reached; `ran` counts all steps."""

    steps: float | None
    ran: int
    train_seconds: float


@dataclass(frozen=True)
class Best:
    """The oracle's value at a batch size; `log_sd`: that of ln(steps) over seeds, NaN for a single seed."""

    steps: float
    learning_rate: float
    log_sd: float


Rows = dict[tuple[int, float, int], float]  # (size, learning rate, seed): steps, infinite if not reached
Oracle = dict[str, dict[int, Best]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [task.name for task in TASKS]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--print", action="store_true", help="print the recorded values, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in (task for task in TASKS if task.name in options.tasks):
        if not options.print:
            search(task)
        print(table(task, values(task)), flush=True)


def load() -> Oracle:
    """The oracle's values by task and batch size."""
    return {task.name: values(task) for task in TASKS}


def search(task: Task) -> None:
    """Run the missing trainings, at the task's batch size first and then at larger and smaller sizes."""
    start = task.sizes.index(task.batch_size)
    for size in (*task.sizes[start:], *reversed(task.sizes[:start])):
        while (missing := next_run(task, size)) is not None:
            rate, seed, most_steps = missing
            _record(task, size, rate, seed, train(task, size, rate, seed, most_steps))


def next_run(task: Task, size: int) -> tuple[float, int, int] | None:
    """(learning rate, seed, most steps) of the next training for the value at `size`; None if complete."""
    rows = recorded(task)
    runs: dict[float, dict[int, float]] = defaultdict(dict)
    for (other, rate, seed), steps in rows.items():
        if other == size:
            runs[rate][seed] = steps
    if all(math.isinf(steps) for seeds in runs.values() for steps in seeds.values()):
        start, expected = _start(task, size, values(task))
        untried = [start * factor for factor in (1.0, 0.5, 2.0, 0.25, 4.0) if start * factor not in runs]
        return (untried[0], task.seeds[0], math.ceil(PATIENCE * expected)) if untried else None
    first = {rate: seeds[task.seeds[0]] for rate, seeds in runs.items()}
    least = min(first.values())
    best = min(runs, key=lambda rate: _mean_log(runs[rate].values()))
    for rate in (2 * best, best / 2):
        if rate not in runs:
            return rate, task.seeds[0], math.ceil(CONTENDS * least)
    for rate in sorted(runs, key=first.__getitem__):
        for seed in task.seeds:
            if first[rate] <= CONTENDS * least and seed not in runs[rate]:
                return rate, seed, math.ceil(PATIENCE * least)
    return None


def _start(task: Task, size: int, best: dict[int, Best]) -> tuple[float, float]:
    """The learning rate to try first, by the scaling rule, and the steps that it should take at most."""
    if not best:
        return task.learning_rate, MOST_EPOCHS * len(task.build_data()[0]) / size / PATIENCE
    near = min(best, key=lambda other: abs(math.log(size / other)))
    rate = best[near].learning_rate * (size / near) ** task.power
    doublings = round(math.log2(rate / task.learning_rate))
    return task.learning_rate * 2.0**doublings, best[near].steps * max(1.0, near / size)


def train(task: Task, size: int, rate: float, seed: int, most_steps: float) -> Run:
    """A training until the smoothed held-out loss has reached the target, diverged, or used all steps.

    Its batches are cut from consecutive shuffled epochs, so that each has exactly `size` samples.
    """
    torch.manual_seed(seed)
    model = task.build_model()
    optimizer = task.make_optimizer(model.parameters(), rate)
    data, held_out = task.build_data()
    history: list[tuple[int, float]] = []
    spent, evaluate_at = 0.0, 1
    for step, indices in zip(count(1), batches(len(data), size, seed), strict=False):
        begin = time.perf_counter()
        take_step(task, model, optimizer, data[indices])
        spent += time.perf_counter() - begin
        if step >= evaluate_at or step >= most_steps:
            evaluate_at = math.ceil(EVALUATE_EVERY * step)
            history.append((step, _evaluate(task, model, held_out.tensors)))
            steps = crossing(history, task.target)
            if steps is not None or step >= most_steps or not math.isfinite(history[-1][1]):
                return Run(steps, step, spent)
    raise AssertionError("batches never end")


def take_step(
    task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...]
) -> None:
    """Forward, loss, backward, optimizer."""
    inputs, targets = batch
    optimizer.zero_grad()
    task.loss_fn(model(inputs), targets).backward()
    optimizer.step()


def batches(samples: int, size: int, seed: int) -> Iterator[Tensor]:
    """The indices of batches without end; no sample comes twice in an epoch."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(samples, generator=generator)])
        yield left[:size]
        left = left[size:]


@torch.no_grad()
def _evaluate(task: Task, model: nn.Module, held_out: Sequence[Tensor]) -> float:
    model.eval()
    loss = task.loss_fn(model(held_out[0]), held_out[1]).item()
    model.train()
    return loss


def crossing(history: Sequence[tuple[int, float]], target: float) -> float | None:
    """The steps at which the loss first reaches the target; None if it doesn't.

    ln(loss) is averaged over three consecutive evaluations, and interpolated over ln(steps).
    """
    logs = [math.log(loss) if loss > 0 else -math.inf for _, loss in history if math.isfinite(loss)]
    smooth = [fmean(logs[max(0, i - 1) : i + 2]) - math.log(target) for i in range(len(logs) - 1)]
    i = next((i for i, above in enumerate(smooth) if above <= 0), None)
    if i is None:
        return None
    if i == 0:
        return float(history[0][0])
    share = smooth[i - 1] / (smooth[i - 1] - smooth[i])
    return history[i - 1][0] * math.pow(history[i][0] / history[i - 1][0], share)


def recorded(task: Task) -> Rows:
    """The steps of all recorded trainings of the task with its target."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {
        (row["batch_size"], row["learning_rate"], row["seed"]): row["steps"] or math.inf
        for row in rows
        if row["task"] == task.name and row["target"] == task.target
    }


def _record(task: Task, size: int, rate: float, seed: int, run: Run) -> None:
    row = {
        "task": task.name,
        "target": task.target,
        "batch_size": size,
        "learning_rate": rate,
        "seed": seed,
        "steps": run.steps and round(run.steps, 2),
        "ran": run.ran,
        "train_seconds": round(run.train_seconds, 3),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(*row.values(), flush=True)


def values(task: Task) -> dict[int, Best]:
    """The oracle's value at each size that has a learning rate with all seeds, in ascending order."""
    runs: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (size, rate, _), taken in recorded(task).items():
        runs[size][rate].append(taken)
    best = {}
    for size, rates in sorted(runs.items()):
        complete = {rate: steps for rate, steps in rates.items() if len(steps) == len(task.seeds)}
        if complete:
            rate = min(complete, key=lambda rate: _mean_log(complete[rate]))
            steps = complete[rate]
            if all(map(math.isfinite, steps)):
                best[size] = Best(math.exp(_mean_log(steps)), rate, _spread(steps))
    return best


def _spread(steps: Sequence[float]) -> float:
    """Standard deviation of ln(steps); NaN for a single seed."""
    return stdev(map(math.log, steps)) if len(steps) > 1 else math.nan


def _mean_log(steps: Iterable[float]) -> float:
    return fmean(map(math.log, steps))


def critical_batch_size(steps: Mapping[int, float]) -> tuple[float, float, float]:
    """(B_crit, S_min, rms error) of ln steps = ln S_min (1 + B_crit / B), by least squares."""

    def residuals(critical: float) -> list[float]:
        logs = [math.log(count / (1 + critical / size)) for size, count in steps.items()]
        return [value - fmean(logs) for value in logs]

    grid = [math.exp(i / 50) for i in range(-100, 800)]
    critical = min(grid, key=lambda size: sum(r * r for r in residuals(size)))
    least = math.exp(fmean(math.log(count / (1 + critical / size)) for size, count in steps.items()))
    return critical, least, math.sqrt(fmean(r * r for r in residuals(critical)))


def table(task: Task, values_by_size: dict[int, Best]) -> str:
    """The values, and the critical batch size fitted to them."""
    lines = [f"{task.name}: target {task.target:g}"]
    for size, best in values_by_size.items():
        lines.append(
            f"  {size:5} {best.steps:10,.0f} steps at learning rate {best.learning_rate:g}, "
            f"sd of ln steps {best.log_sd:.2f}"
        )
    if len(values_by_size) > 2:
        steps = {size: best.steps for size, best in values_by_size.items()}
        critical, least, error = critical_batch_size(steps)
        lines.append(f"  B_crit {critical:,.0f}, S_min {least:,.0f}, rms error of ln steps {error:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

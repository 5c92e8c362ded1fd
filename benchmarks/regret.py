"""Run autobatch on real trainings, and compare the time with its answers to that of the best batch size.

    python benchmarks/regret.py [--tasks NAME ...] [--seeds COUNT]
    python benchmarks/regret.py --rescore     # results/regret.json with the oracle's current values

Needs a quiet machine and results/oracle.jsonl (see oracle.py); writes results/regret.json. For each task the
step time t(B) is measured first. For each seed, which the oracle has not used, `autobatch.find` gives an
answer. The task is then trained to its target with that answer, and with the task's batch size and rate.

regret        steps(B) t(B) over the least of the oracle's sizes, steps(B) with the oracle's learning rate
whole regret  the same with the measured steps of the training with the answer's learning rate
break-even    seconds of `find` and of that training, against those of the training at the task's batch size
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import oracle
import torch
from oracle import Run
from tasks import TASKS, Task

import autobatch
from autobatch.decision.constants import RESOLUTION
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from autobatch.devices import host
from autobatch.records.limits import Objective

RESULTS = Path(__file__).parent / "results" / "regret.json"
FIRST_SEED = 100  # the oracle's are below
ROUNDS = 7
ROUND_SECONDS = 0.05
ROUND_STEPS = 3
# A training that takes this many times the oracle's steps counts as not reaching its target.
PATIENCE = 5.0
TOOL = "autobatch"
OWN = "always 32"


@dataclass(frozen=True)
class Ground:
    """The reference of a task: the oracle's steps and the measured step time."""

    task: Task
    steps: dict[int, float]
    law: StepTimeLaw

    def seconds(self, size: int) -> float:
        """Time to the target at a batch size, with the oracle's learning rate."""
        return steps_at(self.steps, size) * self.law.step_seconds_at(size)

    @property
    def best(self) -> int:
        return min(self.steps, key=self.seconds)

    def regret(self, size: int) -> float:
        return self.seconds(size) / self.seconds(self.best)


@dataclass(frozen=True)
class Row:
    """An answer and its results. Trainings that did not reach the target count all their steps."""

    task: str
    seed: int
    batch_size: int
    learning_rate: float | None
    critical_batch_size: float | None
    interval: Sequence[float | None] | None
    status: str
    find_seconds: float
    regret: float
    whole_regret: float
    own_whole_regret: float
    train_seconds: float
    own_train_seconds: float
    reached: bool
    own_reached: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [task.name for task in TASKS]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--seeds", type=int, default=5, help="how many answers for each task")
    parser.add_argument("--rescore", action="store_true", help="run nothing, score the stored answers again")
    options = parser.parse_args()
    if options.rescore:
        return rescore()
    begun = datetime.now(timezone.utc)
    grounds: list[Ground] = []
    rows: list[Row] = []
    for task in (task for task in TASKS if task.name in options.tasks):
        grounds.append(prepare(task))
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            rows.append(judge(grounds[-1], seed))
            print(json.dumps(asdict(rows[-1])), flush=True)
            RESULTS.write_text(json.dumps(document(begun, grounds, rows), indent=1) + "\n")
    print(table(grounds, rows))
    return None


def rescore() -> None:
    """Score the stored answers by the oracle's current values; step times and trainings stay as measured."""
    stored = json.loads(RESULTS.read_text())
    grounds: list[Ground] = []
    rows: list[Row] = []
    for task in (task for task in TASKS if task.name in stored["tasks"]):
        before = stored["tasks"][task.name]
        grounds.append(_stored_ground(task, before))
        best = before["sizes"][str(before["best"])]["seconds"]
        rows += [
            _rescored(Row(**row), grounds[-1], best) for row in stored["rows"] if row["task"] == task.name
        ]
    begun = datetime.fromisoformat(stored["environment"]["date"])
    result = document(begun, grounds, rows) | {"environment": stored["environment"]}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(table(grounds, rows))


def _stored_ground(task: Task, before: Mapping[str, Any]) -> Ground:
    law, sizes = before["step_time"], {int(size): row for size, row in before["sizes"].items()}
    seconds = {size: row["step_seconds"] for size, row in sizes.items()}
    corrections = (math.log(t / (law["a"] + law["b"] * size)) for size, t in seconds.items())
    measured = StepTimeLaw(
        a_seconds=law["a"],
        b_seconds_per_sample=law["b"],
        relative_error=law["error"],
        sizes=tuple(seconds),
        step_seconds=tuple(seconds.values()),
        corrections=tuple(corrections),
        noise=RESOLUTION,
    )
    return Ground(task, {size: best.steps for size, best in oracle.values(task).items()}, measured)


def _rescored(row: Row, ground: Ground, best_before: float) -> Row:
    share = best_before / ground.seconds(ground.best)
    return replace(
        row,
        regret=ground.regret(row.batch_size),
        whole_regret=row.whole_regret * share,
        own_whole_regret=row.own_whole_regret * share,
    )


def prepare(task: Task) -> Ground:
    """The oracle's steps, and a new measurement of the step time."""
    values = oracle.values(task)
    if missing := [size for size in task.sizes if size not in values]:
        raise SystemExit(f"{task.name}: the oracle has no value at {missing}; run benchmarks/oracle.py first")
    rounds = step_seconds(task)
    law = fit_step_time(list(rounds), list(rounds.values()))
    return Ground(task, {size: best.steps for size, best in values.items()}, law)


def step_seconds(task: Task) -> dict[int, list[float]]:
    """The median step of each round by size; sizes alternate, so that a drift affects all of them."""
    steppers = {size: _stepper(task, size) for size in task.sizes}
    medians: dict[int, list[float]] = {size: [] for size in task.sizes}
    for _ in range(ROUNDS):
        for size, step in steppers.items():
            step()
            times: list[float] = []
            while len(times) < ROUND_STEPS or sum(times) < ROUND_SECONDS:
                begin = time.perf_counter()
                step()
                times.append(time.perf_counter() - begin)
            medians[size].append(median(times))
    return medians


def _stepper(task: Task, size: int) -> Callable[[], None]:
    """A function that takes a training step as oracle.train does."""
    model = task.build_model()
    optimizer = task.make_optimizer(model.parameters(), task.learning_rate)
    data = task.build_data()[0]
    stream = oracle.batches(len(data), size, seed=0)
    return lambda: oracle.take_step(task, model, optimizer, data[next(stream)])


def judge(ground: Ground, seed: int) -> Row:
    """An answer of autobatch, and trainings with and without it."""
    task = ground.task
    data, held_out = task.build_data()
    recommendation = autobatch.find(
        task.build_model,
        data,
        loss_fn=task.loss_fn,
        optimizer=partial(task.make_optimizer, lr=task.learning_rate),
        val_dataset=held_out,
        batch_size=task.batch_size,
        limits=autobatch.Limits(seed=seed, objective=Objective.TIME_TO_LOSS),
        fresh=True,
    )
    rate = recommendation.learning_rate or task.learning_rate
    trained = _train(ground, recommendation.batch_size, rate, seed)
    own = _train(ground, task.batch_size, task.learning_rate, seed)
    check, environment = recommendation.check, recommendation.environment
    return Row(
        task=task.name,
        seed=seed,
        batch_size=recommendation.batch_size,
        learning_rate=recommendation.learning_rate,
        critical_batch_size=check.critical_batch_size if check else None,
        interval=check.interval if check else None,
        status=str(check.status) if check else "",
        find_seconds=environment.elapsed_seconds if environment else math.nan,
        regret=ground.regret(recommendation.batch_size),
        whole_regret=_whole_regret(ground, recommendation.batch_size, trained),
        own_whole_regret=_whole_regret(ground, task.batch_size, own),
        train_seconds=trained.train_seconds,
        own_train_seconds=own.train_seconds,
        reached=trained.steps is not None,
        own_reached=own.steps is not None,
    )


def _train(ground: Ground, size: int, rate: float, seed: int) -> Run:
    return oracle.train(ground.task, size, rate, seed, PATIENCE * steps_at(ground.steps, size))


def _whole_regret(ground: Ground, size: int, run: Run) -> float:
    return (run.steps or run.ran) * ground.law.step_seconds_at(size) / ground.seconds(ground.best)


def steps_at(steps: Mapping[int, float], size: int) -> float:
    """The steps at a size, by log-log interpolation; constant above the last size, constant samples below."""
    sizes = sorted(steps)
    if size >= sizes[-1]:
        return steps[sizes[-1]]
    if size <= sizes[0]:
        return steps[sizes[0]] * sizes[0] / size
    above = next(i for i, larger in enumerate(sizes) if larger > size)
    low, high = sizes[above - 1], sizes[above]
    share = math.log(size / low) / math.log(high / low)
    return steps[low] * math.pow(steps[high] / steps[low], share)


def rules(ground: Ground) -> dict[str, int]:
    """The sizes that other rules choose. All of the oracle's sizes fit, so the largest also fits."""
    rates = {size: size / ground.law.step_seconds_at(size) for size in ground.steps}
    return {
        OWN: ground.task.batch_size,
        "fastest throughput": max(rates, key=rates.__getitem__),
        "90% of the throughput": min(s for s, rate in rates.items() if rate >= 0.9 * max(rates.values())),
        "largest that fits": max(rates),
    }


def regrets(grounds: Iterable[Ground], rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Regret by rule and task, a value for each seed, and the whole regret."""
    cells: dict[str, dict[str, list[float]]] = {}
    for ground in grounds:
        task_rows = [row for row in rows if row.task == ground.task.name]
        scored = {TOOL: [row.regret for row in task_rows]}
        scored |= {rule: [ground.regret(size)] * len(task_rows) for rule, size in rules(ground).items()}
        scored[f"{TOOL}, whole"] = [row.whole_regret for row in task_rows]
        scored[f"{OWN}, whole"] = [row.own_whole_regret for row in task_rows]
        for rule, values in scored.items():
            cells.setdefault(rule, {})[ground.task.name] = values
    return cells


def summary(cells: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean, 90th percentile (nearest rank) and maximum over tasks and seeds, and the mean of each task."""
    values = sorted(value for cell in cells.values() for value in cell)
    p90 = values[math.ceil(0.9 * len(values)) - 1]
    per_task = {task: fmean(cell) for task, cell in cells.items()}
    return {"mean": fmean(values), "p90": p90, "max": values[-1], **per_task}


def break_even(rows: Iterable[Row]) -> dict[str, float]:
    """Mean seconds of a task: `find`, the training with its answer, the training with the task's size."""
    rows = list(rows)
    find, with_answer = fmean(r.find_seconds for r in rows), fmean(r.train_seconds for r in rows)
    own = fmean(r.own_train_seconds for r in rows)
    return {"find": find, "with_answer": with_answer, "own": own, "saved": own - find - with_answer}


def table(grounds: Sequence[Ground], rows: Sequence[Row]) -> str:
    """The summary of regret.json as a text table."""
    names = [ground.task.name for ground in grounds]
    lines = ["regret".ljust(24) + "".join(f"{title:>18}" for title in ("mean", "p90", "max", *names))]
    for rule, cells in regrets(grounds, rows).items():
        lines.append(rule.ljust(24) + "".join(f"{value:18.2f}" for value in summary(cells).values()))
    lines += [
        "",
        "seconds".ljust(24) + "".join(f"{title:>18}" for title in ("find", "with answer", "own", "saved")),
    ]
    for name in names:
        seconds = break_even(row for row in rows if row.task == name)
        lines.append(name.ljust(24) + "".join(f"{value:18.1f}" for value in seconds.values()))
    for ground in grounds:
        sizes = ", ".join(f"{size:,} {ground.seconds(size):.2f} s" for size in ground.steps)
        lines += ["", f"{ground.task.name}: best {ground.best:,}; {sizes}"]
    missed = sum(not row.reached for row in rows)
    return "\n".join([*lines, "", f"{missed} of {len(rows)} trainings with the answer missed the target"])


def document(begun: datetime, grounds: Sequence[Ground], rows: Sequence[Row]) -> dict[str, object]:
    """All answers with their summary and environment."""
    done = [ground for ground in grounds if any(row.task == ground.task.name for row in rows)]
    return {
        "environment": environment(begun),
        "tasks": {ground.task.name: _described(ground) for ground in done},
        "regret": {rule: summary(cells) for rule, cells in regrets(done, rows).items()},
        "seconds": {g.task.name: break_even(r for r in rows if r.task == g.task.name) for g in done},
        "rows": [asdict(row) for row in rows],
    }


def environment(begun: datetime) -> dict[str, object]:
    """The date, versions and machine of a measurement."""
    return {
        "date": begun.isoformat(timespec="seconds"),
        "autobatch": autobatch.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": host.cpu_name(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }


def _described(ground: Ground) -> dict[str, object]:
    law = ground.law
    return {
        "target": ground.task.target,
        "own": {"batch_size": ground.task.batch_size, "learning_rate": ground.task.learning_rate},
        "best": ground.best,
        "rules": rules(ground),
        "step_time": {"a": law.a_seconds, "b": law.b_seconds_per_sample, "error": law.relative_error},
        "sizes": {
            size: {
                "steps": steps,
                "step_seconds": law.step_seconds_at(size),
                "seconds": ground.seconds(size),
            }
            for size, steps in ground.steps.items()
        },
    }


if __name__ == "__main__":
    main()

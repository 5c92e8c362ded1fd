"""Part 6: the answer on two small tasks against every batch size and learning rate of a grid.

Each training has the same epochs. A size is safe if its final held-out loss is at most 2% above that of the
current size with its learning rate. regret = seconds at the answer / seconds of the fastest safe training;
harm = loss at the answer / loss at the current size.
"""

from __future__ import annotations

import runpy
import time
from typing import Any

import torch
from torch.utils.data import DataLoader

from on_gpu_parts import device, programs
from on_gpu_parts.report import Report

TASKS = ("task_charlm", "task_ngram")
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
# Learning rates over that of the square-root rule.
FACTORS = (0.5, 1.0, 2.0)
SAFE_RATIO = 1.02


class Task:
    """A target's training at any size and learning rate, from the same first weights."""

    def __init__(self, name: str) -> None:
        self._facts = runpy.run_path(programs.target(name))
        self.batch_size: int = self._facts["batch_size"]
        self.learning_rate: float = self._facts["LEARNING_RATE"]
        self._train = self._facts["dataset"]
        self._held_out = self._facts["val_dataset"]

    def train(self, size: int, learning_rate: float) -> dict[str, float]:
        """Seconds of the training, and the held-out loss at its end."""
        torch.manual_seed(0)
        model = self._facts["build_model"]().to(device.name())
        optimizer = self._facts["make_optimizer"](model.parameters())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        batches = [
            [part.to(device.name()) for part in batch]
            for batch in DataLoader(self._train, size, shuffle=True)
        ]
        torch.accelerator.synchronize()
        begin = time.perf_counter()
        for _ in range(self._facts["epochs"]):
            for inputs, targets in batches:
                optimizer.zero_grad()
                self._facts["loss_fn"](model(inputs), targets).backward()
                optimizer.step()
        torch.accelerator.synchronize()
        seconds = time.perf_counter() - begin
        inputs, targets = (part.to(device.name()) for part in self._held_out.tensors)
        with torch.no_grad():
            loss = self._facts["loss_fn"](model(inputs), targets).item()
        return {"seconds": round(seconds, 4), "loss": round(loss, 5)}


def run(report: Report) -> None:
    device.prepare()
    device.warm_up()
    for index, name in enumerate(TASKS):
        end = time.monotonic() + report.seconds_left / (len(TASKS) - index)
        task = Task(name)
        task.train(SIZES[-1], task.learning_rate)  # the first steps of a process are slower
        probed = programs.probe(
            *(programs.target(name), "--fresh", "--device", device.name(), "--budget", device.scale().budget),
            seconds=report.seconds_left,
        )
        answer = probed.get("answer", {})
        current = task.train(task.batch_size, task.learning_rate)
        row: dict[str, Any] = {"task": name, **probed, "current": current}
        if size := answer.get("batch_size"):
            at_answer = task.train(size, answer.get("learning_rate") or task.learning_rate)
            row.update(at_answer=at_answer, harm=round(at_answer["loss"] / current["loss"], 4))
        grid, complete = train_grid(task, end)
        safe = [each for each in grid if each["loss"] <= SAFE_RATIO * current["loss"]]
        best = min([current, *safe], key=lambda each: each["seconds"])
        if "at_answer" in row:
            row["regret"] = round(row["at_answer"]["seconds"] / best["seconds"], 4)
        report.add(**row, best=best, grid_complete=complete, grid=grid)


def train_grid(task: Task, end: float) -> tuple[list[dict[str, Any]], bool]:
    """Trainings at every size and learning rate, the quickest first; False where the time was too short."""
    sizes, factors = (SIZES, FACTORS) if device.is_gpu() else (SIZES[2:4], FACTORS[1:2])
    grid: list[dict[str, Any]] = []
    expected_seconds = 0.0
    for size in reversed(sizes):
        rule = task.learning_rate * (size / task.batch_size) ** 0.5
        for factor in factors:
            begin = time.monotonic()
            if begin + expected_seconds > end:
                return grid, False
            trained = task.train(size, factor * rule)
            grid.append({"batch_size": size, "learning_rate": factor * rule, **trained})
            seconds = time.monotonic() - begin
        # Half the batch size has twice the steps.
        expected_seconds = 2 * seconds
    return grid, True

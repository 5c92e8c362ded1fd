"""Does the recommended batch size beat the tutorial's? The beginner's Keras model, trained by `fit`.

    python benchmarks/keras_seed.py [--seeds COUNT] [--budget SECONDS]

Writes results/keras_seed.json after each seed, with a part for each budget. `autobatch.find` runs once, with
the tutorial's 10 as current batch size and the given budget (default 60 seconds). For each seed two trainings
follow from the same initial weights: A at batch size 10 with the compiled learning rate, for the tutorial's
20 epochs, then B with the answer.

target    the validation loss at the end of A: the median of its last five epochs
seconds   of `fit` without evaluations, to the second of two consecutive epochs at or below the target
ratio     the seconds of A over those of B; above 1, the answer is faster
evaluated the same with an evaluation after each epoch, as in the tutorial, however short the epochs are
included  the same with the seconds of `find` added to B, as if the search served a single training

A training B that doesn't reach the target within PATIENCE times the epochs of A counts with its whole time,
and `reached` is false.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"
# Spinning threads would spoil the timing on a shared machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import keras
import numpy
import torch

import autobatch
from autobatch import Limits, Recommendation
from autobatch.devices import host
from autobatch.examples import keras_beginner

RESULTS = Path(__file__).parent / "results" / "keras_seed.json"
PATIENCE = 50
FIRST_SEED = 100
# The validation loss of an epoch fluctuates: the target is a median, and must hold twice.
LAST_EPOCHS = 5
IN_A_ROW = 2


@dataclass(frozen=True)
class Run:
    """A training: validation loss and accuracy after each epoch, and the seconds of `fit` until then.

    `seconds` without the evaluations, `wall_seconds` with them.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...]

    def epoch_at(self, target: float) -> int | None:
        """The last of the first IN_A_ROW epochs, from 0, at or below the target."""
        for last in range(IN_A_ROW - 1, len(self.losses)):
            if max(self.losses[last + 1 - IN_A_ROW : last + 1]) <= target:
                return last
        return None


class Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """Record the time and the validation loss of each epoch; end the training at a target."""

    def __init__(self, target: float | None) -> None:
        super().__init__()
        self._target = target
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.seconds: list[float] = []
        self.wall_seconds: list[float] = []
        self._evaluating = 0.0

    def run(self) -> Run:
        return Run(tuple(self.losses), tuple(self.accuracies), tuple(self.seconds), tuple(self.wall_seconds))

    def on_train_begin(self, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        end = time.perf_counter()
        # Between the last batch and the end of an epoch `fit` only evaluates.
        self._evaluating += end - self._trained
        self.wall_seconds.append(end - self._begin)
        self.seconds.append(end - self._begin - self._evaluating)
        self.losses.append(logs["val_loss"])
        self.accuracies.append(logs["val_accuracy"])
        if self._target is not None and self.run().epoch_at(self._target) is not None:
            self.model.stop_training = True


def train(
    seed: int, batch_size: int, learning_rate: float | None, epochs: int, target: float | None = None
) -> Run:
    """A training of the tutorial's model from the initial weights of a seed; None keeps the compiled rate."""
    keras.utils.set_random_seed(seed)
    model = keras_beginner.build_model()
    if learning_rate is not None:
        model.optimizer.learning_rate = learning_rate
    x, y = keras_beginner.build_dataset()
    clock = Clock(target)
    model.fit(
        x=x,
        y=y,
        validation_data=keras_beginner.build_val_dataset(),
        batch_size=batch_size,
        epochs=epochs,
        shuffle=True,
        verbose=0,
        callbacks=[clock],
    )
    return clock.run()


def run_pair(seed: int, answer: Recommendation) -> dict[str, Any]:
    """Both trainings of a seed, and their results."""
    text = train(seed, keras_beginner.batch_size, None, keras_beginner.epochs)
    target = median(text.losses[-LAST_EPOCHS:])
    most_epochs = PATIENCE * keras_beginner.epochs
    answered = train(seed, answer.batch_size, answer.learning_rate, most_epochs, target)
    text_epoch, answer_epoch = text.epoch_at(target), answered.epoch_at(target)
    # The tutorial's last epochs may alternate around their median.
    text_epoch = len(text.losses) - 1 if text_epoch is None else text_epoch
    last = len(answered.losses) - 1 if answer_epoch is None else answer_epoch
    return {
        "seed": seed,
        "target": target,
        "reached": answer_epoch is not None,
        "text": _run_row(text, text_epoch),
        "answer": _run_row(answered, last),
        "ratio": text.seconds[text_epoch] / answered.seconds[last],
        "ratio_evaluated": text.wall_seconds[text_epoch] / answered.wall_seconds[last],
    }


def _run_row(run: Run, epoch: int) -> dict[str, Any]:
    return {
        "epochs": epoch + 1,
        "seconds": run.seconds[epoch],
        "wall_seconds": run.wall_seconds[epoch],
        "accuracy": run.accuracies[epoch],
    }


def find(budget_seconds: float) -> tuple[Recommendation, float]:
    """(the answer, the seconds of the call)."""
    begin = time.perf_counter()
    answer = autobatch.find(
        keras_beginner.build_model(),
        keras_beginner.build_dataset(),
        val_dataset=keras_beginner.build_val_dataset(),
        batch_size=keras_beginner.batch_size,
        limits=Limits(budget_seconds=budget_seconds),
    )
    return answer, time.perf_counter() - begin


def summary(pairs: list[dict[str, Any]], find_seconds: float) -> dict[str, Any]:
    """Medians and extremes of the paired ratios, and the number of slower answers."""
    ratios = [pair["ratio"] for pair in pairs]
    included = [p["text"]["seconds"] / (p["answer"]["seconds"] + find_seconds) for p in pairs]
    saved = median(p["text"]["seconds"] - p["answer"]["seconds"] for p in pairs)
    return {
        "pairs": len(pairs),
        "median_ratio": median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "answer_slower": sum(ratio < 1 for ratio in ratios),
        "answer_not_reached": sum(not pair["reached"] for pair in pairs),
        "median_ratio_evaluated": median(pair["ratio_evaluated"] for pair in pairs),
        "answer_slower_evaluated": sum(pair["ratio_evaluated"] < 1 for pair in pairs),
        "median_ratio_find_included": median(included),
        "answer_slower_find_included": sum(ratio < 1 for ratio in included),
        # The number of trainings after which the search has paid off.
        "trainings_to_pay": find_seconds / saved if saved > 0 else None,
    }


def environment() -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "autobatch": autobatch.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu": host.cpu_name(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=Limits().budget_seconds)
    options = parser.parse_args()

    environment_at_start = environment()
    answer, find_seconds = find(options.budget)
    answer_row = {
        "batch_size": answer.batch_size,
        "learning_rate": answer.learning_rate,
        "why": answer.why,
        "check": None if answer.check is None else answer.check.detail or str(answer.check.status),
        "critical_batch_size": None if answer.check is None else answer.check.critical_batch_size,
        "seconds": find_seconds,
    }
    print(json.dumps(answer_row, indent=1), flush=True)
    pairs: list[dict[str, Any]] = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        pairs.append(run_pair(seed, answer))
        print(json.dumps(pairs[-1]), flush=True)
        result = {
            "environment": {**environment_at_start, "load_average_at_end": os.getloadavg()[0]},
            "find": answer_row,
            "summary": summary(pairs, find_seconds),
            "pairs": pairs,
        }
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[f"budget of {options.budget:g} s"] = result
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(summary(pairs, find_seconds), indent=1))


if __name__ == "__main__":
    main()

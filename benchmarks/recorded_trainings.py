"""Records whole trainings at fixed epochs, over batch sizes and seeds, for same_epochs.py to replay.

    nice python benchmarks/recorded_trainings.py [--tasks NAME ...] [--seeds SEED ...]

Every training is appended to results/same_epochs.jsonl when it ends, and recorded trainings are not run
again, so it can be interrupted at any time. The learning rate of a size is that of the noise rule, times a
power of two where `--rate` says so. Rates stay constant, so a training holds all shorter ones. Step times are
processor seconds of one thread, which other processes of the machine change little.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from oracle import batches
from tasks import TASKS, Data
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autobatch.decision.critical_batch import scaled_learning_rate
from autobatch.decision.noise_scale import NoiseScale, noise_scale, samples_wanted

RECORD = Path(__file__).parent / "results" / "same_epochs.jsonl"
SEEDS = (0, 1, 2, 3, 4)
CHUNKS = 32
# Evaluations: ten an epoch, and from ten epochs on one each time the training is 1% longer.
EVALUATIONS_PER_EPOCH = 10
EVALUATION_GROWTH = 1.01
# Sizes are half of the case's current size, and that times powers of two up to this one.
DOUBLINGS = 6
# The noise scale is measured at the end and at each halving of the epochs before it.
NOISE_POINTS = 9


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training with its current batch size and learning rate, and three lengths of it in epochs.

    The lengths are picked so that the loss still falls at the end of the first, and is flat in the last.
    """

    name: str
    build_model: Callable[[], nn.Module]
    build_data: Callable[[], Data]
    loss_fn: Callable[[nn.Module, Tensor, Tensor], Tensor]
    make_optimizer: Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
    learning_rate: float
    power: float
    batch_size: int
    epochs: tuple[float, float, float]
    most_noise_samples: int = 8192
    doublings: int = DOUBLINGS

    @property
    def sizes(self) -> tuple[int, ...]:
        """The current size first, its multiples up to half of the samples, and half of it."""
        samples = len(self.build_data()[0])
        larger = (self.batch_size << k for k in range(1, self.doublings + 1))
        return (
            self.batch_size,
            *(size for size in larger if size <= samples / 2),
            self.batch_size // 2,
        )


def build_beginner() -> nn.Module:
    """Keras' beginner model in plain torch: Glorot weights and zero biases, as Keras starts it."""
    first, second, last = nn.Linear(1, 16), nn.Linear(16, 32), nn.Linear(32, 2)
    for layer in (first, second, last):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last, nn.Sigmoid())


def beginner_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Keras' sparse categorical cross-entropy of sigmoid outputs, and the second layer's regularizer."""
    scores = model(inputs)
    shares = (scores / scores.sum(1, keepdim=True)).clamp(1e-7, 1 - 1e-7)
    kernel = model.get_parameter("2.weight")
    return F.nll_loss(shares.log(), targets) + 0.01 * kernel.square().sum()


@cache
def beginner_data() -> Data:
    """The samples of autobatch.examples.keras_beginner, which can't be imported without Keras."""
    random = np.random.default_rng(0)
    ages = random.integers(13, 101, 2100)
    wrong = random.random(2100) < 0.05
    inputs = torch.tensor((ages - 13) / 87, dtype=torch.float32).view(-1, 1)
    targets = torch.tensor((ages >= 65) ^ wrong, dtype=torch.int64)
    return TensorDataset(inputs[210:], targets[210:]), TensorDataset(inputs[:210], targets[:210])


def beginner_adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, eps=1e-7)


@cache
def ngram_part() -> Data:
    """A part of the task's samples, so that several epochs are short enough to record."""
    train, held = task_named("ngram").build_data()
    keep = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:40_000]
    return TensorDataset(*train[keep]), TensorDataset(*held[:4096])


def task_named(name: str) -> Any:
    return next(task for task in TASKS if task.name == name)


def case_of(name: str, epochs: tuple[float, float, float], **changes: Any) -> Case:
    """The task of that name as a case."""
    task = task_named(name)
    settings = {
        "build_data": task.build_data,
        "loss_fn": lambda model, inputs, targets: task.loss_fn(model(inputs), targets),
        "batch_size": task.batch_size,
        **changes,
    }
    return Case(
        name=name,
        build_model=task.build_model,
        make_optimizer=task.make_optimizer,
        learning_rate=task.learning_rate,
        power=task.power,
        epochs=epochs,
        **settings,
    )


CASES = (
    Case(
        name="keras_beginner",
        build_model=build_beginner,
        build_data=beginner_data,
        loss_fn=beginner_loss,
        make_optimizer=beginner_adam,
        learning_rate=1e-3,
        power=0.5,
        batch_size=10,
        epochs=(5, 20, 80),
    ),
    case_of("digits_cnn", (3, 10, 40)),
    case_of("digits_mlp", (2, 8, 24)),
    case_of("digits_regression", (2, 8, 24)),
    case_of("ngram", (1, 3, 10), build_data=ngram_part),
    case_of("charlm", (0.5, 1, 2), most_noise_samples=2048, doublings=3),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [case.name for case in CASES]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--rate", type=float, default=1.0, help="times the rate of the rule")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for case in (case for case in CASES if case.name in options.tasks):
            record(case, seed, options.rate)


def record(case: Case, seed: int, rate: float) -> None:
    """Runs the trainings of a seed that are not on file, the current size first: it measures the noise.

    Other rates than the rule's are tried from the current size on.
    """
    for size in case.sizes if rate == 1 else (size for size in case.sizes if size >= case.batch_size):
        rows = recorded(case.name)
        if (size, rate, seed) in rows:
            continue
        factor = rate * rule_factor(case, size, rows)
        row = train(case, size, factor * case.learning_rate, seed, with_noise=size == case.batch_size)
        about = {
            "task": case.name,
            "batch_size": size,
            "rate": rate,
            "seed": seed,
            "factor": round(factor, 5),
        }
        RECORD.parent.mkdir(exist_ok=True)
        with RECORD.open("a") as file:
            file.write(json.dumps({**about, **row}, separators=(",", ":")) + "\n")
        print(*about.values(), f"{row['losses'][-1]} after {row['epochs']} epochs", flush=True)


def recorded(name: str) -> dict[tuple[int, float, int], dict[str, Any]]:
    """The trainings on file for a task, by batch size, multiple of the rule's rate, and seed."""
    if not RECORD.exists():
        return {}
    rows = [json.loads(line) for line in RECORD.read_text().splitlines()]
    return {(row["batch_size"], row["rate"], row["seed"]): row for row in rows if row["task"] == name}


def rule_factor(case: Case, size: int, rows: dict[tuple[int, float, int], dict[str, Any]]) -> float:
    """The noise rule's factor: the critical batch size is twice the noise early in the middle training.

    It comes from the first seed, so that all seeds of a size train with one rate.
    """
    if size == case.batch_size:
        return 1.0
    early = [scale for epochs, scale in noise_of(rows[case.batch_size, 1.0, SEEDS[0]]) if scale.valid]
    last = [scale.batch_size for scale in early][:3]
    critical = 2 * math.exp(fmean(map(math.log, last)))
    return scaled_learning_rate(1.0, case.batch_size, size, critical, case.power)


def noise_of(row: dict[str, Any]) -> list[tuple[float, NoiseScale]]:
    """Epochs and the noise scale there, of a recorded training at the current size."""
    return [(epochs, _scale(*numbers)) for epochs, *numbers in row["noise"]]


def _scale(size: float | None, low: float, high: float | None) -> NoiseScale:
    return NoiseScale(
        batch_size=math.inf if size is None else size,
        low=low,
        high=math.inf if high is None else high,
        chunks=CHUNKS,
        chunk_size=1,
        samples=CHUNKS,
        valid=size is not None,
    )


def train(case: Case, size: int, rate: float, seed: int, *, with_noise: bool) -> dict[str, Any]:
    """A training of the longest length: loss on the held-out samples at each mark, and step time."""
    (inputs, targets), (held_inputs, held_targets) = (part.tensors for part in case.build_data())
    torch.manual_seed(seed)
    model = case.build_model()
    optimizer = case.make_optimizer(model.parameters(), rate)
    marks = set(marks_of(len(inputs), size, case.epochs[-1]))
    halvings = [case.epochs[-1] / 2**k for k in range(NOISE_POINTS)] if with_noise else []
    noise_at = {max(1, round(epochs * len(inputs) / size)) for epochs in halvings}
    generator = torch.Generator().manual_seed(seed + 1000)

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        loss = case.loss_fn(model, held_inputs, held_targets).item()
        model.train()
        return loss

    losses: list[float | None] = [_digits(evaluate())]
    noise, block_seconds = [], []
    steps, begin = 0, time.process_time()
    for step, indices in zip(range(1, max(marks) + 1), batches(len(inputs), size, seed), strict=False):
        optimizer.zero_grad()
        case.loss_fn(model, inputs[indices], targets[indices]).backward()
        optimizer.step()
        if step in marks or step in noise_at:
            block_seconds.append((time.process_time() - begin) / (step - steps))
            if step in noise_at:
                scale = measure_noise(case, model, inputs, targets, generator)
                noise.append([_digits(step * size / len(inputs)), *_numbers(scale)])
            if step in marks:
                loss = evaluate()
                losses.append(_digits(loss) if math.isfinite(loss) else None)
                if losses[-1] is None:
                    break
            steps, begin = step, time.process_time()
    return {
        "samples": len(inputs),
        "epochs": _digits(steps * size / len(inputs)),
        "step_seconds": _digits(median(block_seconds)),
        "noise": noise,
        "losses": losses,
    }


def marks_of(samples: int, size: int, epochs: float) -> Iterator[int]:
    """Steps after which the held-out loss is evaluated; the last is that of the whole training."""
    at = 1 / EVALUATIONS_PER_EPOCH
    while at < epochs * (1 - 1e-9):
        yield max(1, round(at * samples / size))
        at = max(at + 1 / EVALUATIONS_PER_EPOCH, EVALUATION_GROWTH * at)
    yield max(1, round(epochs * samples / size))


def measure_noise(
    case: Case, model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator
) -> NoiseScale:
    """The noise scale at the model's weights, from as many samples as the product would take."""
    parameters, scale = list(model.parameters()), None
    most = min(len(inputs), case.most_noise_samples)
    while scale is None or samples_wanted(scale, most) > scale.samples + CHUNKS - 1:
        size = samples_wanted(scale, most) // CHUNKS
        rows = []
        for indices in torch.randperm(len(inputs), generator=generator)[: CHUNKS * size].view(CHUNKS, size):
            loss = case.loss_fn(model, inputs[indices], targets[indices])
            rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
        gradients = torch.stack(rows).double()
        products = gradients @ gradients.sum(0)
        scale = noise_scale(size, gradients.square().sum(1).tolist(), products.tolist())
    return scale


def _numbers(scale: NoiseScale) -> list[float | None]:
    return [_digits(x) if math.isfinite(x) else None for x in (scale.batch_size, scale.low, scale.high)]


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    main()

"""`autobatch.find` with all that people pass to it, and in the processes that they call it from."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import autobatch
from autobatch import Limits, Recommendation
from tests.faults.probing import PATIENCE_SECONDS, run, write_model

# The search ends by itself: the budget is for a slow machine.
LIMITS = Limits(max_batch=16, budget_seconds=60, check=False)


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    """A data set whose samples only its own collate function can stack."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> Any:
        return {"row": [float(index)] * 8, "label": index % 4}


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Twelve samples, which nobody can count beforehand."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index in range(12):
            yield torch.full((8,), float(index)), torch.tensor([1.0])


class Locked(Dataset[torch.Tensor]):
    """A data set that holds what can't be sent."""

    def __init__(self) -> None:
        self.cache = {"lock": threading.Lock()}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(8)


def stacked(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.tensor([sample["row"] for sample in samples])
    return rows, torch.tensor([sample["label"] for sample in samples])


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def assert_sound(found: Recommendation, limits: Limits = LIMITS) -> None:
    """What holds for every answer: a measured size, within the limits."""
    passed = {trial.batch_size for trial in found.trials if trial.ok}
    assert found.batch_size in passed
    assert found.ceiling.batch_size == max(passed)
    sizes = {trial.batch_size for trial in found.trials}
    assert limits.max_batch is not None
    assert min(sizes) >= limits.smallest
    assert max(sizes) <= limits.max_batch
    assert all(size % limits.multiple_of == 0 for size in sizes)


def test_a_training_as_people_have_it() -> None:
    """A DataLoader with its own batch size and collate function, a lambda, an optimizer with state."""
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    model.eval()
    loader: DataLoader[Any] = DataLoader(Pairs(), batch_size=6, shuffle=True, collate_fn=stacked)
    found = autobatch.find(
        model,
        loader,
        loss_fn=lambda output, target: nn.functional.cross_entropy(output, target, label_smoothing=0.1),
        optimizer=optimizer,
        val_dataset=DataLoader(Pairs(), batch_size=2, collate_fn=stacked),
        limits=LIMITS,
    )

    assert_sound(found)
    # The current size comes first, then its doublings, and at last smaller sizes: 2 only if 4 is faster.
    assert {trial.batch_size for trial in found.trials if trial.ok} | {2} == {1, 2, 4, 6, 12, 16}
    assert (found.workload.batch_size, found.workload.dataset_size) == (6, 96)
    assert (found.workload.optimizer, found.workload.dataset) == ("Adam", "Pairs")
    assert found.workload.inferred == ()
    assert found.ceiling.limited_by == "max_batch"
    assert not model.training


def test_a_factory_and_arrays_within_limits() -> None:
    rows, labels = np.random.rand(100, 8), np.arange(100) % 4
    assert rows.dtype == np.float64
    limits = Limits(min_batch=2, max_batch=10, multiple_of=3, budget_seconds=60, check=False)
    found = autobatch.find(
        lambda: make_model(),
        (rows, labels),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        batch_size=9,
        limits=limits,
    )

    assert_sound(found, limits)
    assert {trial.batch_size for trial in found.trials} == {3, 6, 9}
    assert found.workload.optimizer == "SGD"
    told = " ".join(found.workload.inferred)
    assert "float64" in told
    assert "cross-entropy" in told
    assert "AdamW" not in told


@pytest.mark.slow
def test_a_training_step_of_the_callers_own_and_a_collate_function() -> None:
    scale = 2.0

    def training_step(model: nn.Module, batch: Any) -> torch.Tensor:
        rows, _ = batch
        output: torch.Tensor = model(rows)
        return (output * scale).square().mean()

    found = autobatch.find(
        make_model(), Pairs(), collate_fn=stacked, training_step=training_step, limits=LIMITS
    )
    assert_sound(found)
    assert found.workload.loss == "your `training_step`"
    assert all(trial.optimizer_steps > 0 for trial in found.trials)


def test_a_stream_is_read_to_its_end_and_no_further() -> None:
    found = autobatch.find(nn.Linear(8, 1), Stream(), limits=LIMITS)

    assert_sound(found)
    assert found.workload.dataset_size == 12
    assert (found.ceiling.batch_size, found.ceiling.limited_by) == (12, "dataset")


SCRIPT = """
import threading, json, os, sys
import torch, autobatch
from torch import nn
from torch.utils.data import Dataset, DataLoader

class Squares(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.full((8,), float(index)), float(index)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 1)
    def forward(self, rows):
        return self.layer(rows).squeeze(-1)

def collate(samples):
    rows, targets = zip(*samples)
    return torch.stack(rows), torch.tensor(targets)

# OpenMP's threads are up before the worker starts, and their number is the caller's own.
torch.randn(512, 512) @ torch.randn(512, 512)
torch.set_num_threads(1)
answers = []

def work():
    answers.append(autobatch.find(Net(), DataLoader(Squares(), batch_size=5, collate_fn=collate),
                                  limits=autobatch.Limits(max_batch=8, budget_seconds=60)))

thread = threading.Thread(target=work)
thread.start()
thread.join()
found = answers[0]
print(json.dumps([found.batch_size, found.workload.model, found.workload.dataset, found.workload.loss,
                  sorted({trial.batch_size for trial in found.trials if trial.ok}), torch.get_num_threads()]))
"""


@pytest.mark.slow
def test_classes_of_a_script_from_a_thread_after_openmp_was_used(tmp_path: Path) -> None:
    # No `if __name__ == "__main__"`: the script is not imported again.
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert ended.returncode == 0, ended.stderr
    size, model, dataset, loss, sizes, threads = json.loads(ended.stdout)
    assert (model, dataset, loss, threads) == ("Net", "Squares", "mean squared error", 1)
    assert {*sizes, 2} == {1, 2, 4, 5, 8}
    assert size in sizes


def _with_lock() -> nn.Module:
    model = make_model()
    model.add_module("inner", nn.Linear(1, 1))
    vars(model.get_submodule("inner"))["lock"] = threading.Lock()
    return model


DATA = (torch.zeros(4, 8), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("arguments", "part", "path"),
    [
        (lambda: (_with_lock(), DATA), "model", "model.inner.lock"),
        (lambda: (make_model(), Locked()), "dataset", "dataset.cache['lock']"),
        (lambda: (make_model(), (make_model(), io.TextIOWrapper(io.BytesIO()))), "dataset", "dataset[1]"),
    ],
)
def test_what_cannot_be_sent_is_named_with_its_path(
    arguments: Callable[[], tuple[Any, Any]], part: str, path: str
) -> None:
    model, dataset = arguments()
    with pytest.raises(autobatch.AutobatchError, match=f"`{part}` can't be sent") as raised:
        autobatch.find(model, dataset, limits=LIMITS)
    assert raised.value.code == "not_picklable"
    assert raised.value.hint
    assert any(fact.startswith(f"`{path}`") for fact in raised.value.facts), raised.value.facts


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"dataset": DataLoader(TensorDataset(*DATA), batch_size=None)}, "unbatched_loader"),
        pytest.param(
            {"optimizer": torch.optim.SGD(make_model().parameters(), lr=0.1)},
            "bad_optimizer",
            marks=pytest.mark.slow,
        ),
        ({"model": 3}, "not_a_model"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(autobatch.AutobatchError) as raised:
        autobatch.find(**{"model": make_model(), "dataset": DATA, "limits": LIMITS, **arguments})
    assert raised.value.code == code


def test_a_measured_file_that_calls_find_is_told_so(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    path.write_text(path.read_text() + "\nimport autobatch\nautobatch.find(build_model, dataset)\n")
    found = run(tmp_path, "probe", "model_file.py", "--json")

    assert found.process.returncode == 2
    error = found.document()["error"]
    assert error["code"] == "nested_call"
    assert "__main__" in error["hint"]
    found.assert_nothing_left()


@pytest.mark.slow
def test_a_module_of_the_callers_that_calls_find_is_told_so(tmp_path: Path) -> None:
    """A class of an unguarded script's module is imported again in the worker, and `find` with it."""
    path = write_model(tmp_path)
    path.write_text(path.read_text() + "\nimport autobatch\nautobatch.find(Net(), dataset)\n")
    ended = subprocess.run(
        [sys.executable, "-c", "import model_file"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert ended.returncode == 1
    assert "autobatch was called from a file that autobatch is measuring" in ended.stderr

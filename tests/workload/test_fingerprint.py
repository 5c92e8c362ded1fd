"""What a session trains, as digests: each change shows in its own part, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.workload import fingerprint, source_files
from autobatch.workload.data_loader import settings_of
from autobatch.workload.dataset import open_samples
from autobatch.workload.parts import Parts, schedule_of
from autobatch.workload.trainer import Trainer
from tests.shared_worker import SharedWorker

PARTS = {"model", "optimizer", "samples", "source", "training", "versions"}


class Net(nn.Module):
    """Two layers with a setting that no `repr` shows."""

    def __init__(self, width: int = 8, scale: float = 1.0, last: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.Linear(4, width), last(), nn.Dropout(0.1), nn.Linear(width, 3))
        self.register_buffer("offset", torch.zeros(4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(inputs + self.offset) * self.scale
        return found


class Stream(IterableDataset[Any]):
    def __init__(self, length: int = 4) -> None:
        self.length = length

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.randn(self.length), torch.tensor(0))] * 20)


def data(size: int = 24, length: int = 4, dtype: torch.dtype = torch.float32) -> TensorDataset:
    return TensorDataset(torch.randn(size, length).to(dtype), torch.randint(3, (size,)))


def frozen() -> nn.Module:
    model = Net()
    next(model.parameters()).requires_grad_(False)
    return model


def dropping() -> nn.Module:
    model = Net()
    model.body[2].p = 0.2  # type: ignore[union-attr]
    return model


def weighted(weight: float) -> Callable[..., torch.Tensor]:
    return lambda output, target: weight * F.cross_entropy(output, target)


def smooth(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target, label_smoothing=0.1)


def plain(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target)


def looped(model: nn.Module, batch: Any) -> torch.Tensor:
    return smooth(model(batch[0]), batch[1])


def sgd(**settings: Any) -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.SGD, **{"lr": 0.1, **settings})


def grouped(parameters: Any) -> torch.optim.Optimizer:
    first, *rest = parameters
    return torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": rest}], lr=0.1)


def stacked(samples: list[Any]) -> Any:
    return torch.stack([one[0] for one in samples]), torch.stack([one[1] for one in samples])


BASE: dict[str, Any] = {
    "model": Net(),
    "dataset": data(),
    "optimizer": sgd(),
    "loss_fn": plain,
    "batch_size": 8,
}


def taken(**changes: Any) -> dict[str, str]:
    """The fingerprint of a `find` call."""
    parts = Parts(**{**BASE, **changes})
    samples = open_samples(parts.dataset, parts.collate_fn)
    held = None if parts.val_dataset is None else open_samples(parts.val_dataset)
    return fingerprint.take(parts, samples, held, Trainer(parts, samples, held, "cpu"))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert set(before) == set(after) == PARTS
    return {name for name in PARTS if before[name] != after[name]}


CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a layer is wider": ({"model": Net(9)}, {"model", "optimizer", "training"}),
    "another activation": ({"model": Net(last=nn.Tanh)}, {"model"}),
    "a plain setting": ({"model": Net(scale=2.0)}, {"model"}),
    "a setting of a library's module": ({"model": dropping()}, {"model"}),
    "a parameter is frozen": ({"model": frozen()}, {"model", "optimizer"}),
    "a function that makes it": ({"model": Net}, {"training"}),
    "parameters of another dtype": (
        {"model": Net().double(), "dataset": data(dtype=torch.float64)},
        {"model", "optimizer", "samples"},
    ),
    "a module is compiled into a script": ({"model": torch.jit.script(Net())}, {"model", "training"}),
    "another optimizer": ({"optimizer": partial(torch.optim.Adam, lr=0.1)}, {"optimizer", "training"}),
    "another learning rate": ({"optimizer": sgd(lr=0.2)}, {"optimizer", "training"}),
    "another momentum": ({"optimizer": sgd(momentum=0.9)}, {"optimizer", "training"}),
    "parameter groups": ({"optimizer": grouped}, {"optimizer", "training"}),
    "more samples": ({"dataset": data(size=25)}, {"samples", "training"}),
    "samples of another dtype": (
        {"dataset": (np.zeros((24, 4), np.float32), np.zeros(24, np.int64))},
        {"samples", "training"},
    ),
    "a validation set": ({"val_dataset": data(6)}, {"samples"}),
    "another loss": ({"loss_fn": smooth}, {"training"}),
    "a training step": ({"training_step": looped}, {"training"}),
    # Its batches are tuples, torch's are lists.
    "a collate function": ({"collate_fn": stacked}, {"samples", "training"}),
    "another current size": ({"batch_size": 9}, {"training"}),
    "epochs": ({"epochs": 3.0}, {"training"}),
    "a schedule": ({"schedule": schedule_of({"warmup_steps": 10})}, {"training"}),
    "a DataLoader": ({"loader": settings_of(DataLoader(data()))}, {"training"}),
}


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return taken()


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_shows_in_its_own_part(name: str, before: dict[str, str]) -> None:
    changes, shows = CHANGES[name]
    assert changed(before, taken(**changes)) == shows


def test_weights_and_the_content_of_samples_have_no_part_in_it(before: dict[str, str]) -> None:
    assert not changed(before, taken(model=Net(), dataset=data()))


def test_loaders_and_closures_differ_by_what_they_hold() -> None:
    two, four = (settings_of(DataLoader(data(), num_workers=workers)) for workers in (2, 4))
    assert changed(taken(loader=two), taken(loader=four)) == {"training"}
    assert changed(taken(loss_fn=weighted(1.0)), taken(loss_fn=weighted(2.0))) == {"training"}
    assert not changed(taken(loss_fn=weighted(1.0)), taken(loss_fn=weighted(1.0)))


def test_a_stream_counts_by_its_first_sample() -> None:
    assert not changed(taken(dataset=Stream()), taken(dataset=Stream()))
    longer = taken(dataset=Stream(5), model=lambda: nn.Linear(5, 3))
    assert "samples" in changed(taken(dataset=Stream(), model=lambda: nn.Linear(4, 3)), longer)


def test_the_code_of_autobatch_shows(before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_files, "of_package", lambda: "another rule")
    assert changed(before, taken()) == {"versions"}


def test_the_version_of_torch_shows(before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.99")
    assert changed(before, taken()) == {"versions"}


def test_taking_it_leaves_the_random_state() -> None:
    class Noisy(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return torch.randn(4), torch.randint(3, ())

    parts = Parts(**{**BASE, "dataset": Noisy(torch.zeros(24))})
    samples = open_samples(parts.dataset)
    trainer = Trainer(parts, samples, None, "cpu")
    state = torch.get_rng_state()
    first = fingerprint.take(parts, samples, None, trainer)
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint.take(parts, samples, None, trainer) == first


# In a real worker, with real files

MODEL = """
import sys
import torch
from torch import nn
from parts import end, width

class Rows(torch.utils.data.TensorDataset):
    def __getitem__(self, index):
        frame = sys._getframe(0)
        while frame is not None:
            if frame.f_code.co_filename.endswith("fingerprint.py"):
                end()
            frame = frame.f_back
        return super().__getitem__(index)

model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
dataset = Rows(torch.randn(24, 4), torch.randint(3, (24,)))
labels = {"a", "b", "c", "d"}

def loss_fn(output, target):
    return nn.functional.cross_entropy(output, target) if labels else None
"""


LIMITS = Limits(trial_timeout_seconds=30)


def recipe(folder: Path) -> messages.Recipe:
    return messages.Recipe(target=str(folder / "cached_model.py"))


@contextmanager
def appended(path: Path, more: str) -> Iterator[None]:
    """The file with `more` at its end, for as long as the context lasts."""
    text = path.read_text()
    path.write_text(text + more)
    try:
        yield
    finally:
        path.write_text(text)


def told(session: LocalEngine) -> messages.Fingerprint:
    session.open()
    found = session.take_fingerprint()
    session.renew()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "cached_model.py").write_text(MODEL)
    (folder / "parts.py").write_text("import os\nwidth = 8\ndef end(): pass\n")
    (folder / "unused.py").write_text("")
    return folder


@pytest.fixture(scope="module")
def worker(folder: Path, shared_worker: SharedWorker) -> Iterator[LocalEngine]:
    with closing(shared_worker.engine(recipe(folder), LIMITS)) as started:
        yield started


@pytest.mark.slow
def test_two_workers_tell_the_same(folder: Path, worker: LocalEngine) -> None:
    """Each has another seed of hashes, by which the order of sets differs."""
    with closing(LocalEngine(recipe(folder), LIMITS, "cpu", {}, print)) as other:
        assert told(worker).parts == told(other).parts != {}


def test_every_own_file_that_was_imported_shows(folder: Path, worker: LocalEngine) -> None:
    before = told(worker).parts
    assert told(worker).parts == before
    for name, shows in (("cached_model.py", {"source"}), ("parts.py", {"source"}), ("unused.py", set())):
        with appended(folder / name, "\n# another line\n"):
            assert changed(before, told(worker).parts) == shows, name
    assert told(worker).parts == before


def test_a_file_that_is_gone_by_then_is_told(folder: Path, worker: LocalEngine) -> None:
    with appended(folder / "cached_model.py", "\nimport os\nos.remove(__file__)\n"):
        found = told(worker)
    assert not found.parts
    assert "No such file" in found.detail


@pytest.mark.parametrize("end", ["os._exit(3)", "raise KeyboardInterrupt"])
def test_a_worker_that_dies_of_it_costs_the_cache_alone(folder: Path, worker: LocalEngine, end: str) -> None:
    with appended(folder / "parts.py", f"\ndef end(): {end}\n"):
        found = told(worker)
        assert not found.parts
        assert found.detail
        worker.open()
        assert worker.try_out(2, 30, 1).outcome is Outcome.OK
        worker.renew()
    assert told(worker).parts


def arguments(**changes: Any) -> Parts:
    """A training whose weights and samples have fixed shapes."""
    model = changes.pop("model", None) or Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=changes.pop("lr", 0.1))
    given = {"dataset": FIXED, "batch_size": 8, "optimizer": optimizer, **changes}
    return Parts(model=model, **given)


FIXED = TensorDataset(torch.ones(24, 4), torch.zeros(24, dtype=torch.int64))


def test_arguments_have_a_digest_whatever_the_weights() -> None:
    digest = fingerprint.of_arguments(arguments())
    assert digest
    assert fingerprint.of_arguments(arguments()) == digest
    others = [
        arguments(lr=0.2),
        arguments(batch_size=16),
        arguments(epochs=3.0),
        arguments(model=Net(width=16)),
        arguments(model=Net(scale=2.0)),
        arguments(model=Net(last=nn.Tanh)),
        arguments(model=frozen()),
        arguments(loss_fn=F.mse_loss),
        arguments(loss_fn=torch.dist),
        arguments(loss_fn=torch.dot),
        arguments(dataset=TensorDataset(torch.zeros(24, 4), torch.zeros(24, dtype=torch.int64))),
        arguments(dataset=[(torch.ones(length), 0) for length in range(1, 100)]),
        arguments(dataset=[(torch.ones(length), 0) for length in range(100, 1, -1)]),
        arguments(dataset=Stream(length=5)),
    ]
    digests = [digest, *map(fingerprint.of_arguments, others)]
    assert "" not in digests
    assert len(set(digests)) == len(digests)


class Opaque:
    """A data set that reads from an open file, which nobody can see into."""

    def __init__(self, path: Path) -> None:
        self.file = path.open()


def test_arguments_that_can_not_be_seen_into_have_none(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    opaque = Opaque(tmp_path / "data")
    assert fingerprint.of_arguments(arguments(dataset=opaque)) == ""
    opaque.file.close()
    assert fingerprint.of_arguments(arguments(dataset=np.array([object()]))) == ""
    assert fingerprint.of_arguments(arguments(dataset=list(range(60_000)))) != ""
    assert fingerprint.of_arguments(arguments(dataset=[(number,) for number in range(60_000)])) == ""

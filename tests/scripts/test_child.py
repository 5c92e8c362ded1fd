"""The child's side without a process of its own: sums of gradients, snapshots, samplers, import hooks."""

from __future__ import annotations

import argparse
import copy
import io
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from autobatch.scripts.child import imports, loaders, sightings, snapshot
from autobatch.scripts.child.call_hook import CallHook
from autobatch.scripts.child.gradients import GradientSums
from autobatch.scripts.child.own_updates import OwnUpdates
from autobatch.scripts.child.reads import Reads
from autobatch.scripts.child.user_code import is_users


def test_sums_of_narrow_gradients_are_exact():
    generator = torch.Generator().manual_seed(1)
    gradients = [
        [torch.randn(3, 4, generator=generator), None, torch.randn(5, generator=generator)] for _ in range(6)
    ]
    sums = GradientSums(width=64, seed=0)
    for parts in gradients:
        sums.add([part if part is None else 2 * part for part in parts], scale=2.0)
    flat = torch.stack([torch.cat([p.flatten() for p in parts if p is not None]) for parts in gradients])
    result = sums.result()
    assert result["squared_norms"] == pytest.approx(flat.square().sum(1).tolist(), rel=1e-5)
    assert result["inner_products"] == pytest.approx((flat @ flat.sum(0)).tolist(), rel=1e-4)
    assert result["sum_squared_norm"] == pytest.approx(float(flat.sum(0).square().sum()), rel=1e-5)


def test_sums_draw_no_random_number_of_the_script():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    sums = GradientSums(width=16, seed=0)
    sums.add([torch.ones(100)])
    assert torch.equal(torch.rand(4), expected)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def test_a_restored_training_goes_on_as_it_would_have(tmp_path: Path):
    path = str(tmp_path / "kept.pt")
    model, optimizer = trained()
    step(model, optimizer, 1)
    snapshot.save(path, [optimizer], [model])
    step(model, optimizer, 2)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizer, 3)
    snapshot.restore(path, [optimizer], [model])
    step(model, optimizer, 2)
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())


def test_a_snapshot_is_restored_in_another_process(tmp_path: Path):
    path = str(tmp_path / "kept.pt")
    model, optimizer = trained()
    step(model, optimizer, 1)
    snapshot.save(path, [optimizer], [model])
    other, its_optimizer = trained()
    step(other, its_optimizer, 5)
    snapshot.restore(path, [its_optimizer], [other])
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_copies_and_checkpoints_of_a_model_leave_its_hook_behind():
    calls: list[int] = []
    model = nn.Linear(2, 1)
    with socket.socket() as unpicklable:
        model.register_forward_pre_hook(
            CallHook(lambda module, args, kwargs: calls.append(unpicklable.fileno())), with_kwargs=True
        )
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        for copied in (torch.load(saved, weights_only=False), copy.deepcopy(model)):
            assert torch.equal(copied(torch.ones(1, 2)), copied.forward(torch.ones(1, 2)))
        assert calls == []
        model(torch.ones(1, 2))
        assert len(calls) == 1


def test_the_outermost_module_is_found_by_its_parameters():
    model, optimizer = trained()
    wrapped = nn.ModuleDict({"inner": model})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert snapshot.find_roots(parameters) == [wrapped]


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_those_of_torch(drop_last: bool):
    sampler = BatchSampler(SequentialSampler(range(23)), 5, drop_last)
    assert list(loaders._batches(sampler)) == list(sampler)


def test_a_size_changes_between_two_batches():
    sampler = BatchSampler(SequentialSampler(range(20)), 4, drop_last=True)
    batches = loaders._batches(sampler)
    sizes = [len(next(batches))]
    sampler.batch_size = 7
    assert sizes + [len(batch) for batch in batches] == [4, 7, 7]


def test_batches_that_workers_have_prepared_at_the_former_size_are_dropped():
    # Hooks stay in their process, so they are tried in one of their own.
    code = (
        "from autobatch.scripts.child import loaders\n"
        "from tests.scripts.test_child import Silent, sizes_around_a_change\n"
        "loaders.install(Silent(), None)\n"
        "print(sizes_around_a_change(persistent=False), sizes_around_a_change(persistent=True))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[0] == "[4, 4, 16, 16, 4, 8] [4, 4, 16, 16, 4, 8]"


class Silent:
    cuts_evaluation = False

    def evaluates(self, loader: object) -> bool:
        return False

    def repeats(self, loader: object) -> bool:
        return False

    def fetched(self, loader: object, samples: int | None, seconds: float) -> None: ...

    def cut_epoch(self, loader: object) -> bool:
        return False

    def interrupted(self) -> None: ...


def sizes_around_a_change(*, persistent: bool) -> list[int]:
    """Samples of batches before and after a change of size, and in the epoch after a broken one."""
    data = TensorDataset(torch.zeros(512, 2))
    loader = DataLoader(data, batch_size=4, num_workers=2, persistent_workers=persistent)
    batches = iter(loader)
    sizes = [len(next(batches)[0]), len(next(batches)[0])]
    loaders.set_size(loader, 16)
    sizes += [len(next(batches)[0]), len(next(batches)[0])]
    loaders.set_size(loader, 4)
    batches = iter(loader)
    sizes.append(len(next(batches)[0]))
    loaders.set_size(loader, 8)
    return [*sizes, len(next(batches)[0])]


class Shard(BatchSampler):
    """A framework's sampler around the one that makes the batches."""

    def __init__(self, inner: BatchSampler) -> None:
        self.batch_sampler = inner
        self.batch_size = inner.batch_size


def test_the_inner_sampler_of_a_framework_is_changed_too():
    data = TensorDataset(torch.zeros(64, 2))
    inner = BatchSampler(RandomSampler(data), 8, drop_last=False)
    loader = DataLoader(data, batch_sampler=Shard(inner))
    assert loaders.set_size(loader, 16)
    assert inner.batch_size == 16


def test_a_loader_without_batches_keeps_its_size():
    assert not loaders.set_size(DataLoader(TensorDataset(torch.zeros(4, 2)), batch_size=None), 16)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(7, 2), 7),
        ([torch.zeros(()), torch.zeros(5)], 5),
        ({"name": "x", "input": torch.zeros(3, 1)}, 3),
        ("text", None),
    ],
)
def test_the_samples_of_a_batch_by_its_first_tensor(batch: object, samples: int | None):
    assert loaders.first_dimension(batch) == samples


def test_click_options_are_seen_with_all_their_spellings():
    seen = []

    @click.command()
    @click.option("-b", "--batch-size", default=16)
    @click.option("--fast", is_flag=True)
    def main(batch_size: int, fast: bool) -> None:
        seen.extend(sightings.sightings())

    main(["-b", "24"], standalone_mode=False)
    (found,) = [sighting for sighting in seen if sighting["source"] == "click"]
    assert (found["flags"], found["value"]) == (["--batch-size", "-b"], 24)


class Recipe:
    def __init__(self) -> None:
        self.num_train_epochs = 3.0
        self.per_device_train_batch_size = 24


def test_epochs_and_sizes_are_seen_in_variables_and_in_objects():
    max_epochs = 12
    recipe = Recipe()
    found = {s["name"]: s["value"] for s in sightings.sightings() if s["source"] == "variable"}
    assert found["max_epochs"] == max_epochs
    assert found["num_train_epochs"] == recipe.num_train_epochs
    assert found["per_device_train_batch_size"] == 24


def test_argparse_is_seen_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", argparse.ArgumentParser.parse_known_args)
    sightings.watch_argparse(argparse)
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", "-b", type=int, default=48)
    parser.add_argument("--verbose", action="store_true")
    parser.parse_args([])
    (found,) = [s for s in sightings.sightings() if s["source"] == "argparse"]
    assert found == {
        "source": "argparse",
        "name": "batch_size",
        "flags": ["--batch-size", "-b"],
        "value": 48,
    }


def test_a_callback_runs_once_its_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "imported_later.py").write_text("value = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    seen: list[int] = []
    imports.after_import("imported_later", lambda module: seen.append(module.value))
    # A library that asks whether it is there gets an answer, and no callback runs.
    from importlib.util import find_spec

    assert find_spec("imported_later") is not None
    assert seen == []
    import imported_later  # type: ignore[import-not-found]

    assert seen == [1]
    imports.after_import("imported_later", lambda module: seen.append(2))
    assert seen == [1, 2]
    del sys.modules[imported_later.__name__]


def test_parameters_that_change_without_an_optimizer_are_noticed():
    weight = nn.Parameter(torch.ones(3))
    updates = OwnUpdates()
    assert not any(updates.seen(weight.sum()) for _ in range(10))
    noticed = []
    for _ in range(10):
        noticed.append(updates.seen(weight.sum()))
        weight.data.add_(-0.1)
    assert noticed[-1]


def test_frozen_parameters_are_no_own_updates():
    updates = OwnUpdates()
    bias = nn.Parameter(torch.zeros(2))
    for _ in range(20):
        assert not updates.seen((torch.randn(2) * bias).sum())


def test_a_file_is_noted_once_and_a_library_never(tmp_path: Path):
    listed = Reads(str(tmp_path))
    for path in ("/data/a.bin", "/data/a.bin", torch.__file__, "/data/b.bin"):
        listed.note(path)
    assert reads_of(tmp_path) == ["/data/a.bin", "/data/b.bin"]


def reads_of(scratch: Path) -> list[str]:
    return (scratch / "reads.txt").read_text().splitlines()


def test_users_code_is_neither_installed_nor_of_the_hooks():
    assert is_users(__file__)
    assert not is_users(torch.__file__)
    assert not is_users(imports.__file__)
    assert not is_users(argparse.__file__)
    assert not is_users("<string>")

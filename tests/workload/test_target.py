"""What is found in a user's file, and the errors where nothing, or too much, is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn
from torch.utils.data import DataLoader

from autobatch.workload.target import load_parts
from tests.workload.target_files import HEAD, refusal


def test_data_and_the_rest_by_their_names(folder: Path) -> None:
    source = HEAD + (
        "model = nn.Linear(2, 3)\n"
        "def build_dataset():\n    return (torch.ones(4, 2),)\n"
        "val_dataset = (torch.ones(2, 2),)\n"
        "batch_size = 16\n"
        "def collate_fn(samples): ...\n"
        "def loss_fn(output, target): ...\n"
        "def make_optimizer(params): ...\n"
        "optimizer = None\n"
        "def training_step(model, batch): ...\n"
    )
    (folder / "net_file.py").write_text(source)
    parts = load_parts("net_file.py")
    assert len(parts.dataset[0]) == 4
    assert len(parts.val_dataset[0]) == 2
    assert parts.batch_size == 16
    named = (parts.collate_fn, parts.loss_fn, parts.optimizer, parts.training_step)
    assert [getattr(one, "__name__", None) for one in named] == [
        "collate_fn",
        "loss_fn",
        "make_optimizer",
        "training_step",
    ]


def test_the_present_batch_size_of_a_loader(folder: Path) -> None:
    (folder / "net_file.py").write_text(
        HEAD + "model = nn.Linear(2, 3)\ntrain_dataloader = DataLoader([1, 2], batch_size=12)\n"
    )
    parts = load_parts("net_file.py")
    assert isinstance(parts.dataset, DataLoader)
    assert parts.batch_size == 12


@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        ("", "net_file.py", "no_model"),
        ("class Net(nn.Module):\n    def __init__(self, width): ...", "net_file.py", "no_model"),
        ("a, b = nn.Linear(1, 1), nn.Linear(2, 3)", "net_file.py", "several_models"),
        ("class A(nn.Module): ...\nclass B(nn.Module): ...", "net_file.py", "several_models"),
        ("model = nn.Linear(1, 1)", "net_file.py:net", "no_attribute"),
        ("model = 'resnet50'", "net_file.py", "not_a_model"),
        ("def build_model():\n    return 3", "net_file.py", "not_a_model"),
        ("1 / 0", "net_file.py", "target_raises"),
        (
            "model = nn.Linear(1, 1)\ndef dataset():\n    return open('no.csv')",
            "net_file.py",
            "target_raises",
        ),
        ("raise SystemExit(3)", "net_file.py", "target_exits"),
        ("class Skipped(BaseException): ...\nraise Skipped('not here')", "net_file.py", "target_raises"),
        ("", "no_file.py", "no_file"),
        ("", "no_folder/no_file", "no_file"),
        ("", "no_such_module", "no_module"),
        ("", "net_file.py.py.", "no_module"),
        ("", "my-model", "no_module"),
        ("", "", "no_module"),
    ],
)
def test_refusals(source: str, target: str, code: str, folder: Path) -> None:
    error = refusal(folder, source, target)
    assert error.code == code
    assert error.hint or error.facts


def test_loaders_by_the_names_that_scripts_use(folder: Path) -> None:
    source = HEAD + (
        "model = nn.Linear(2, 3)\n"
        "train_dataset = [torch.ones(2)] * 8\n"
        "def dataloader(path): ...\n"
        "training_data_loader = DataLoader(train_dataset, batch_size=4)\n"
        "valid_loader = DataLoader(train_dataset[:2], batch_size=2)\n"
    )
    (folder / "net_file.py").write_text(source)
    parts = load_parts("net_file.py")
    assert parts.batch_size == 4
    assert isinstance(parts.val_dataset, DataLoader)


def test_a_target_reads_its_own_arguments(folder: Path) -> None:
    source = HEAD + (
        "import argparse\n"
        "parser = argparse.ArgumentParser()\n"
        'parser.add_argument("--width", type=int, required=True)\n'
        "model = nn.Linear(2, parser.parse_args().width)\n"
    )
    (folder / "net_file.py").write_text(source)
    model = load_parts("net_file.py", ["--width", "5"]).make_model()
    assert isinstance(model, nn.Linear)
    assert model.out_features == 5


def test_accumulated_batches_make_up_the_current_size(folder: Path) -> None:
    source = "model = nn.Linear(2, 3)\nbatch_size = 8\ngradient_accumulation_steps = 4\n"
    (folder / "net_file.py").write_text(HEAD + source)
    parts = load_parts("net_file.py")
    assert (parts.batch_size, parts.accumulation_steps) == (32, 4)


@pytest.mark.parametrize(
    ("rate", "power"),
    [
        ("0.1 * batch_size / 256", 1.0),
        ("0.1 * (batch_size / 256) ** 0.5", 0.5),
        ("0.1", 0.0),
        ("0.1 + 0 * batch_size", 0.0),
        ("batch_size.no_such_attribute", 0.0),
    ],
)
def test_a_rate_that_follows_from_the_batch_size_is_noticed(folder: Path, rate: str, power: float) -> None:
    source = (
        "model = nn.Linear(2, 3)\nbatch_size = 64\n"
        f"def make_optimizer(params):\n    return torch.optim.SGD(params, lr={rate})\n"
    )
    (folder / "net_file.py").write_text(HEAD + source)
    parts = load_parts("net_file.py")
    assert parts.learning_rate_power == pytest.approx(power)
    assert parts.batch_size == 64

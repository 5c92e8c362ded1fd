"""What is found in a user's file, and the errors where nothing, or too much, is found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn
from torch.utils.data import DataLoader

from autobatch.records.errors import AutobatchError, TargetError, UsageError
from autobatch.workload.target import load_parts

HEAD = "import torch\nfrom torch import nn\nfrom torch.utils.data import DataLoader\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def model_of(folder: Path, source: str, target: str = "net_file.py") -> nn.Module:
    (folder / "net_file.py").write_text(HEAD + source)
    return load_parts(target).make_model()


def refusal(folder: Path, source: str, target: str = "net_file.py") -> AutobatchError:
    (folder / "net_file.py").write_text(HEAD + source)
    with pytest.raises(AutobatchError) as caught:
        load_parts(target).make_model()
    assert target.partition(":")[0] in caught.value.message or "()" in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("model = nn.Linear(2, 3)", "net_file.py"),
        ("def build_model():\n    return nn.Linear(2, 3)\nmodel = nn.Linear(1, 1)", "net_file.py"),
        ("def create_model():\n    return nn.Linear(2, 3)", "net_file.py"),
        ("anything = nn.Linear(2, 3)", "net_file.py"),
        ("net = same = nn.Linear(2, 3)", "net_file.py"),
        ("net = nn.Linear(2, 3)\nloss_fn = nn.Sequential()", "net_file.py"),
        ("net = nn.Linear(2, 3)\ncriterion = nn.CrossEntropyLoss()", "net_file.py"),
        ("net = nn.Linear(2, 3)\n_spare = nn.Linear(9, 9)", "net_file.py"),
        (
            "class Net(nn.Linear):\n    def __init__(self, width=3):\n        super().__init__(2, width)",
            "net_file.py",
        ),
        ("a, b = nn.Linear(1, 1), nn.Linear(2, 3)", "net_file.py:b"),
        ("def tiny():\n    return nn.Linear(2, 3)", "net_file.py:tiny"),
        ("class Nets:\n    small = nn.Linear(2, 3)", "net_file.py:Nets.small"),
        ("model = nn.Linear(2, 3)", "net_file"),
        ("a, b = nn.Linear(1, 1), nn.Linear(2, 3)", "net_file:b"),
    ],
)
def test_the_model_that_is_meant(source: str, target: str, folder: Path) -> None:
    found = model_of(folder, source, target)
    assert isinstance(found, nn.Linear)
    assert (found.in_features, found.out_features) == (2, 3)


def test_a_file_is_found_by_its_path_and_may_import_its_neighbours(folder: Path) -> None:
    inner = folder / "deep"
    inner.mkdir()
    (inner / "neighbour_of_net.py").write_text("width = 3\n")
    (inner / "deep_net.py").write_text(
        HEAD + "from neighbour_of_net import width\nmodel = nn.Linear(2, width)\n"
    )
    assert load_parts("deep/deep_net.py").ready_model is not None


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


def test_hints_name_what_can_be_typed(folder: Path) -> None:
    error = refusal(folder, "a, b = nn.Linear(1, 1), nn.Linear(2, 3)")
    assert error.facts == ("models there: `a`, `b`",)
    assert error.hint == "`autobatch probe net_file.py:a` or `autobatch probe net_file.py:b`"


def test_a_missing_package_is_told_with_the_python_that_lacks_it(folder: Path) -> None:
    error = refusal(folder, "import no_such_package\nmodel = nn.Linear(1, 1)")
    assert error.facts == (
        "ModuleNotFoundError: No module named 'no_such_package'",
        "at net_file.py:4",
    )
    assert error.hint == f"autobatch runs in `{sys.executable}`: install the module there"


def test_a_relative_import_is_told_with_the_module_to_name(folder: Path) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "relative_net.py").write_text("from . import layers\n")
    with pytest.raises(TargetError) as caught:
        load_parts("pkg/relative_net.py")
    assert caught.value.hint == (
        "name it as a module of its package, such as `autobatch probe pkg.relative_net`"
    )


def test_an_error_of_autobatch_within_the_file_keeps_its_own_words(folder: Path) -> None:
    (folder / "net_file.py").write_text(
        "from autobatch.records.errors import UsageError\n"
        "raise UsageError('nested', code='nested_call', hint='h')\n"
    )
    with pytest.raises(UsageError) as caught:
        load_parts("net_file.py")
    assert caught.value.code == "nested_call"


def test_names_of_the_standard_library_are_refused(folder: Path) -> None:
    (folder / "random.py").write_text(HEAD + "model = nn.Linear(1, 1)\n")
    with pytest.raises(TargetError) as caught:
        load_parts("random.py")
    assert caught.value.code == "name_taken"
    assert "random_model.py" in caught.value.hint

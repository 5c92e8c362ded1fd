"""Bad input, through the real command line: what a stranger reads, word for word, and never a traceback."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autobatch import api
from autobatch.cli.recipe import recipe_of
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.reports.text import terminal
from tests.cli.console import MODEL, Ended, autobatch, called, run, validator
from tests.shared_worker import SharedWorker

Golden = Callable[[str | Path, str], None]


@dataclass(frozen=True)
class Case:
    """A model file with something wrong in it, and what the command line makes of it."""

    name: str
    code: str
    source: str = MODEL
    file: str = "model.py"
    target: str = "model.py"
    device: str = "cpu"
    memory_bytes: int | None = None

    @property
    def command(self) -> tuple[str, ...]:
        limit = () if self.memory_bytes is None else ("--memory-limit", f"{self.memory_bytes >> 20}MiB")
        return (autobatch(), "probe", self.target, "--device", self.device, "--max-batch", "8", *limit)


def replaced(old: str, new: str) -> str:
    """The good model file with one piece of it replaced."""
    assert old in MODEL
    return MODEL.replace(old, new)


HUNGRY = """
import torch
from torch import nn


class Hungry(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (x.new_ones(len(x), 1 << 26) * self.scale)[:, :3]


model = Hungry()
dataset = (torch.randn(64, 12), torch.randint(3, (64,)))
"""

# The kinds of bad input that everybody produces sooner or later.
COMMON = (
    Case("missing_file", "no_file", target="modle.py"),
    Case("no_model", "no_model", "import torch\n\ndataset = (torch.ones(4, 2), torch.ones(4))\n"),
    Case(
        "two_models",
        "several_models",
        "from torch import nn\n\nsmall = nn.Linear(2, 2)\nbig = nn.Linear(2, 9)\n",
    ),
    Case("empty_dataset", "empty_dataset", replaced("64", "0")),
    Case("wrong_input", "step_fails", replaced("nn.Linear(12, 16)", "nn.Linear(20, 16)")),
    Case(
        "loss_nan", "loss_not_finite", replaced("torch.randn(64, 12)", "torch.full((64, 12), float('nan'))")
    ),
    Case("nothing_fits", "nothing_fits", HUNGRY, memory_bytes=100 << 20),
    Case("raises", "target_raises", "import torch\n\npath = {}['TRAIN_DATA']\n"),
    Case("exits", "target_exits", "import sys\n\nsys.exit('usage: model.py DATA')\n"),
)

FURTHER = (
    Case("syntax_error", "target_raises", "model = (\n"),
    Case("name_taken", "name_taken", file="random.py", target="random.py"),
    Case("no_such_device", "no_device", device="xpu"),
    Case("dies_on_import", "worker_died", "import os\n\nos._exit(7)\n"),
    Case(
        "uneven_samples",
        "bad_collate",
        replaced(
            "(torch.randn(64, 12), torch.randint(3, (64,)))",
            "[(torch.ones(12 + i), 0) for i in range(64)]",
        ).replace("nn.Flatten()", "nn.AdaptiveAvgPool1d(12)"),
    ),
    Case(
        "one_sample_fails",
        "step_fails",
        replaced("nn.Linear(12, 16)", "nn.Linear(20, 16)").replace("64", "1"),
    ),
)

UNPICKLABLE = """
import sys
import threading

import torch
from torch import nn

import autobatch
from autobatch.storage import codec


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 3)
        self.body.guard = threading.Lock()

    def forward(self, x):
        return self.body(x)


try:
    autobatch.find(Net(), (torch.randn(64, 12), torch.randint(3, (64,))))
except autobatch.AutobatchError as error:
    if "--json" in sys.argv:
        print(codec.render_error(error))
    else:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_status)
"""


@pytest.mark.parametrize("case", COMMON + FURTHER, ids=lambda case: case.name)
def test_bad_input(case: Case, shared_worker: SharedWorker, tmp_path: Path, golden: Golden) -> None:
    """The text of an error in a search of this process, where the model file has no folder in its name."""
    (tmp_path / case.file).write_text(case.source)
    limits = Limits(max_batch=8, memory_bytes=case.memory_bytes)

    def search() -> None:
        recipe = recipe_of(str(tmp_path / case.target))
        api.probe(recipe, limits, device=case.device, make_engine=shared_worker.make_engine)

    def short(text: str) -> str:
        return text.replace(f"{tmp_path}/", "")

    with pytest.raises(AutobatchError) as raised:
        search()
    error = raised.value
    facts = tuple(map(short, error.facts))
    shown = AutobatchError(short(error.message), code=error.code, facts=facts, hint=short(error.hint))
    golden(f"errors/{case.name}.txt", masked(terminal.render_error(shown)))


# The first is refused by the command, the second by its worker.
QUICK_IN_A_SHELL = ("missing_file", "wrong_input")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name in QUICK_IN_A_SHELL else pytest.mark.slow)
        for case in COMMON + FURTHER
    ],
)
def test_bad_input_in_a_shell(case: Case, tmp_path: Path, golden: Golden) -> None:
    (tmp_path / case.file).write_text(case.source)
    plain, as_json = run(tmp_path, case.command, (*case.command, "--json"))
    check_plain(case.name, plain, 1, golden)
    check_json(plain, as_json, 1, case.code)


def test_a_model_that_can_not_be_sent(tmp_path: Path, golden: Golden) -> None:
    (tmp_path / "script.py").write_text(UNPICKLABLE)
    command = (sys.executable, "script.py")
    plain, as_json = run(tmp_path, command, (*command, "--json"))
    check_plain("unpicklable", plain, 2, golden)
    check_json(plain, as_json, 2, "not_picklable")


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("no_target", ("probe",), 2),
        ("bad_command", ("prob", "model.py"), 2),
        ("bad_bytes", ("probe", "model.py", "--memory-limit", "5G"), 2),
        ("no_unit", ("probe", "model.py", "--memory-limit", "3"), 2),
        ("bad_budget", ("probe", "model.py", "--budget", "-3"), 2),
        ("bad_count", ("probe", "model.py", "--min-batch", "x"), 2),
        ("zero_count", ("probe", "model.py", "--max-batch", "0"), 2),
        ("crossed_limits", ("probe", "model.py", "--min-batch", "8", "--max-batch", "4"), 2),
        ("bad_objective", ("probe", "model.py", "--objective", "fast"), 2),
        ("bad_shape", ("probe", "model.py", "--input-shape", "3,x"), 2),
        ("lone_classes", ("probe", "model.py", "--classes", "10"), 2),
        ("bad_device", ("probe", "model.py", "--device", "gpu 0"), 2),
        ("folder_as_target", ("probe", "folder/"), 1),
        ("missing_folder", ("probe", "src/model.py"), 1),
        ("save_nowhere", ("probe", "model.py", "--save", "out/result.json"), 1),
        ("show_missing", ("show", "result.json"), 1),
        ("show_damaged", ("show", "damaged.json"), 1),
    ],
)
def test_bad_calls_are_refused_before_anything_starts(
    name: str, arguments: tuple[str, ...], status: int, tmp_path: Path, golden: Golden
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "damaged.json").write_text('{"schema": "autobatch/2", "ok": true, "batch_size": ')
    (tmp_path / "folder").mkdir()
    plain, as_json = called(tmp_path, *arguments), called(tmp_path, *arguments, "--json")
    check_plain(name, plain, status, golden)
    check_json(plain, as_json, status, None)


def test_no_command_at_all_prints_the_help(tmp_path: Path) -> None:
    bare, asked = run(tmp_path, (autobatch(),), (autobatch(), "--help"))
    assert (bare.status, bare.stderr) == (0, "")
    assert bare.stdout == asked.stdout
    assert "probe" in bare.stdout


def check_plain(name: str, ended: Ended, status: int, golden: Golden) -> None:
    assert ended.status == status, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    # Rows of what was measured stand above the error; their figures differ from run to run.
    _, found, told = ended.stderr.partition("error: ")
    assert found, ended.stderr
    golden(f"errors/{name}.txt", masked(f"error: {told}").rstrip("\n"))


def check_json(plain: Ended, ended: Ended, status: int, code: str | None) -> None:
    assert ended.status == status
    assert "Traceback" not in ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    validator().validate(document)
    assert document["ok"] is False
    assert code is None or document["error"]["code"] == code
    # Both forms say the same.
    assert " ".join(document["error"]["message"].split()) in " ".join(plain.stderr.split())


def masked(text: str) -> str:
    return re.sub(r"torch \d\S+ has", "torch VERSION has", text)

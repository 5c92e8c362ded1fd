"""What the command line promises to people and to scripts, through the real command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from autobatch import load
from autobatch.cli.commands import cli
from tests.cli.console import MODEL, QUICK, Ended, autobatch, called, run, validator

PROBE = (autobatch(), "probe", "model.py", *QUICK)
ESCAPE = "\x1b"
# Standard error of `-q`: nothing, or one line; a busy machine decides which.
LOW_CONFIDENCE = r"(confidence low \(\d+%\): .+\n)?"


def answer(ended: Ended) -> dict[str, Any]:
    """The JSON object of a command that went well."""
    assert ended.status == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    validator().validate(document)
    assert document["ok"] is True
    return document


def rows(document: dict[str, Any]) -> list[int]:
    """The sizes that passed, each once."""
    return sorted({trial["batch_size"] for trial in document["trials"] if trial["outcome"] == "ok"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended, Ended]:
    """A folder with a saved result and its report, what `probe` printed for it, and what `-q` prints."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "model.py").write_text(MODEL)
    files = ("--save", "result.json", "--html", "report.html")
    plain, quiet = run(folder, (*PROBE, *files), (*PROBE, "-q"))
    return folder, plain, quiet


def test_the_report_goes_to_stdout_and_the_progress_to_stderr(saved: tuple[Path, Ended, Ended]) -> None:
    _, plain, _ = saved
    assert plain.status == 0, plain.stderr
    answer_line = r"^(✔ Use|= Keep) batch size [1248]\b"
    assert re.search(answer_line, plain.stdout, re.MULTILINE)
    assert not re.search(answer_line, plain.stderr, re.MULTILINE)
    assert re.match(r"\[ *\d+ s\] the worker is ready on cpu\n", plain.stderr)
    # The table is in the report alone.
    assert "step (ms)" not in plain.stderr
    assert max(map(len, plain.stdout.splitlines())) <= 80


def test_piped_output_has_no_escape_codes(saved: tuple[Path, Ended, Ended]) -> None:
    _, plain, quiet = saved
    assert ESCAPE not in plain.stdout + plain.stderr + quiet.stdout + quiet.stderr


def test_quiet_prints_the_number_and_a_low_confidence(saved: tuple[Path, Ended, Ended]) -> None:
    _, _, quiet = saved
    assert quiet.status == 0
    assert re.fullmatch(r"[1248]\n", quiet.stdout)
    assert re.fullmatch(LOW_CONFIDENCE, quiet.stderr)


def test_show_tells_a_saved_result_again(saved: tuple[Path, Ended, Ended]) -> None:
    folder, plain, _ = saved
    (again,) = run(folder, (autobatch(), "show", "result.json"))
    as_json, quiet, detailed = (
        called(folder, "show", "result.json", form) for form in ("--json", "-q", "-v")
    )
    assert again.stdout == plain.stdout
    assert "critical batch size" in detailed.stdout or re.search("^check +not run", detailed.stdout, re.M)
    assert re.search(r"all measurements.*: -v", plain.stdout)
    assert detailed.stdout.count("samples/s     ±") == 1
    assert answer(as_json) == json.loads((folder / "result.json").read_text())
    assert quiet.stdout == f"{load(folder / 'result.json').batch_size}\n"
    assert again.stderr == as_json.stderr == ""
    assert re.fullmatch(LOW_CONFIDENCE, quiet.stderr)


def test_a_reader_that_leaves_early_is_no_error(saved: tuple[Path, Ended, Ended]) -> None:
    folder, _, _ = saved
    show = subprocess.Popen(
        (autobatch(), "show", "result.json"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert show.stdout is not None
    assert show.stderr is not None
    # Closed before anything is written, as `| head -1` may do.
    show.stdout.close()
    assert show.stderr.read() == b""
    assert show.wait(30) == 0
    show.stderr.close()


def test_json_has_what_others_rely_on(folder: Path) -> None:
    everyday, accumulated = run(
        folder,
        (*PROBE, "--json", "-q"),
        (*PROBE, "--json", "--no-check", "--global-batch", "24", "--multiple-of", "3"),
    )
    found = answer(everyday)
    assert found["schema"] == "autobatch/2"
    assert found["batch_size"] in rows(found)
    assert (found["accumulation_steps"], found["world_size"]) == (1, 1)
    assert found["global_batch_size"] == found["batch_size"]
    assert found["check"]["status"] in ("passed", "vetoed", "noise_only", "not_run")
    assert {"critical_batch_size", "interval", "noise_scale", "vetoed"} <= set(found["check"])
    assert {"candidates", "measured_warnings"} <= set(found)
    assert (found["learning_rate"] is None) == (found["learning_rate_factor"] is None)
    assert found["ceiling"]["limited_by"] == "max_batch"
    assert found["ceiling"]["batch_size"] == 8
    assert found["ceiling"]["verified"] is False
    assert found["why"]
    assert isinstance(found["warnings"], list)
    assert found["device"]["kind"] == "cpu"
    assert found["environment"]["torch"]
    trial = found["trials"][-1]
    assert len(trial["step_seconds"]) >= 1
    assert trial["samples_per_second"] > 0
    assert trial["peak_bytes"] > 0

    found = answer(accumulated)
    assert found["global_batch_size"] == 24
    assert found["batch_size"] * found["accumulation_steps"] == 24
    assert rows(found) == [3, 6]
    assert found["batch_size"] in rows(found)


def test_limits_and_objectives(folder: Path) -> None:
    command = (autobatch(), "probe", "model.py", "--device", "cpu", "--no-check", "--json")
    memory, throughput = run(
        folder,
        (*command, "--objective", "memory", "--min-batch", "3", "--max-batch", "13"),
        (*command, "--objective", "throughput", "--min-batch", "4", "--max-batch", "16"),
    )
    found = answer(memory)
    # On a CPU the forecast bounds the doublings and takes the place of none.
    assert rows(found) == [3, 6, 12, 13]
    assert found["batch_size"] == 13

    found = answer(throughput)
    assert rows(found) == [4, 8, 16]
    quickest = max(found["trials"], key=lambda trial: trial["samples_per_second"])
    assert found["batch_size"] == quickest["batch_size"]


LOUD = """
import os, sys

for _ in range(2000):
    print("x" * 1000)
os.system("echo from a subprocess")
sys.stderr.write("\\x1b[31mred without a line end")
"""

NO_DATASET = """
from torch import nn

net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
loss_fn = nn.CrossEntropyLoss()
"""


def test_what_the_file_prints_never_reaches_stdout(folder: Path) -> None:
    (folder / "model.py").write_text(LOUD + MODEL)
    quiet, as_json = run(folder, (*PROBE, "--no-check", "-q"), (*PROBE, "--no-check", "--json"))
    assert re.fullmatch(r"\d\n", quiet.stdout)
    assert answer(as_json)["ok"]
    assert len(quiet.stderr) > 2_000_000
    assert "from a subprocess" in quiet.stderr
    # A terminal must not be steered by what a model file prints.
    assert ESCAPE not in quiet.stderr


def test_random_inputs_are_labelled(folder: Path) -> None:
    (folder / "model.py").write_text(NO_DATASET)
    command = (*PROBE, "--no-check", "--input-shape", "3,8,8", "--classes", "10")
    plain, without = run(folder, command, PROBE)
    assert "Memory and speed only" in plain.stdout
    assert without.status == 1
    assert "--input-shape 3,32,32" in without.stderr


TRAINING_STEP = """
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Stream(IterableDataset):
    def __iter__(self):
        for i in range(6):
            yield {"signal": {"left": torch.ones(4), "right": torch.ones(4)}, "goal": torch.ones(1)}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, left, right):
        return self.body(torch.cat([left, right], dim=1))


def training_step(model, batch):
    assert model.training in (True, False)
    return (model(**batch["signal"]) - batch["goal"]).square().mean()


def make_optimizer(params):
    return torch.optim.SGD(params, lr=0.1)


train_dataloader = DataLoader(Stream(), batch_size=4)
"""


def test_module_targets_and_a_size_below_which_the_model_fails(folder: Path) -> None:
    package = folder / "work"
    package.mkdir()
    (package / "nets.py").write_text(TRAINING_STEP)
    command = (autobatch(), "probe", "work.nets:Net", *QUICK, "--no-check", "--json")
    (ended,) = run(folder, command)
    found = answer(ended)
    # The current size comes first, then larger ones, then smaller ones down to the first that fails.
    assert next(trial["batch_size"] for trial in found["trials"] if trial["outcome"] == "ok") == 4
    last = next(trial for trial in found["trials"] if trial["batch_size"] == 1)
    assert last["outcome"] == "failed"
    assert "more than 1 value per channel" in last["detail"]
    assert sorted(set(rows(found)) - {1}) == [2, 4, 6]
    assert found["ceiling"]["limited_by"] == "dataset"
    workload = found["workload"]
    assert (workload["dataset_size"], workload["batch_size"]) == (6, 4)
    assert (workload["loss"], workload["optimizer"]) == ("your `training_step`", "SGD")


def test_devices_help_and_version(folder: Path) -> None:
    python = (sys.executable, "-m", "autobatch")
    devices, help_text, module_help, version = run(
        folder,
        (autobatch(), "devices"),
        (autobatch(), "probe", "-h"),
        (*python, "--help"),
        (*python, "--version"),
    )
    assert [one.status for one in (devices, help_text, module_help, version)] == [0, 0, 0, 0]
    assert re.search(r"^cpu\b", devices.stdout, re.MULTILINE)
    assert "--memory-limit" in help_text.stdout
    assert "devices" in module_help.stdout
    assert re.fullmatch(r"autobatch, version \S+\n", version.stdout)


def test_help_lists_options_under_headings(folder: Path) -> None:
    (ended,) = run(folder, (autobatch(), "probe", "--help"))
    headings = re.findall(r"^(\S.*):$", ended.stdout, re.MULTILINE)
    assert headings == [
        *("Target", "Device and memory", "Batch sizes", "Measurement", "Cluster", "Output", "Other"),
    ]
    section = ended.stdout.partition("Batch sizes:")[2].partition("Measurement:")[0]
    assert {"--max-batch", "--global-batch", "--objective"} <= set(section.split())
    listed = re.findall(r"^  (?:-\w, )?(--[\w-]+)", ended.stdout, re.MULTILINE)
    options = [one.opts[-1] for one in cli.commands["probe"].params if isinstance(one, click.Option)]
    assert sorted(listed) == sorted([*options, "--help"])
    # No summary of a command is cut.
    (summary,) = run(folder, (autobatch(), "--help"))
    assert "..." not in summary.stdout.partition("Commands:")[2]


def test_the_command_itself_never_imports_torch(folder: Path) -> None:
    # Seconds of every run: the worker needs torch, the process that waits for it does not.
    imports = (
        "import sys, autobatch.api, autobatch.cli.commands, autobatch.progress.display; "
        "print('torch' in sys.modules)"
    )
    (ended,) = run(folder, (sys.executable, "-c", imports))
    assert ended.stdout == "False\n"


def test_no_colour_on_a_terminal_that_asks_for_none(saved: tuple[Path, Ended, Ended]) -> None:
    folder, _, _ = saved
    show = (autobatch(), "show", "result.json")
    assert ESCAPE in on_a_terminal(folder, show, {})
    assert ESCAPE not in on_a_terminal(folder, show, {"NO_COLOR": "1"})
    assert ESCAPE not in on_a_terminal(folder, show, {"TERM": "dumb"})


def on_a_terminal(folder: Path, command: tuple[str, ...], environment: dict[str, str]) -> str:
    """What a command prints to a pseudo-terminal."""
    pty = pytest.importorskip("pty")
    import os

    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        command,
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    parts: list[bytes] = []
    try:
        while part := os.read(ours, 4096):
            parts.append(part)
    except OSError:  # how Linux tells that the other end was closed
        pass
    os.close(ours)
    assert started.wait(30) == 0
    return b"".join(parts).decode()


def test_a_report_for_the_browser_is_written_beside_the_answer(saved: tuple[Path, Ended, Ended]) -> None:
    folder, told, _ = saved
    assert told.status == 0, told.stderr
    assert re.search(r"^(✔ Use|= Keep) batch size", told.stdout, re.MULTILINE)
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>\n<html ")
    again = called(folder, "show", "result.json", "--html", "again.html")
    quiet = called(folder, "show", "result.json", "--html", "quiet.html", "-q")
    assert again.stdout == told.stdout
    assert quiet.stdout.strip().isdigit()
    for name in ("again.html", "quiet.html"):
        assert (folder / name).read_bytes() == (folder / "report.html").read_bytes()
    assert not list(folder.glob(".autobatch-*"))


def test_a_report_never_takes_the_place_of_what_is_read_or_saved(folder: Path) -> None:
    ended = [
        called(folder, "probe", *arguments)
        for arguments in (
            ("model.py", "--html", "model.py"),
            ("model.py", "--save", "a.json", "--html", "./a.json"),
            ("model.py:model", "--save", "model.py"),
            ("model.py", "--html", "none/report.html"),
            ("model.py", "--html", "."),
        )
    ]
    assert [one.status for one in ended] == [2, 2, 2, 1, 1]
    assert "`--html` would write over `model.py`" in ended[0].stderr
    assert "`--html` would write over the file of `--save`" in ended[1].stderr
    assert "the report can't be saved to `none/report.html`" in ended[3].stderr
    assert "name a file: `--html report.html`" in ended[4].stderr
    # Before anything was measured.
    assert not any("samples/s" in one.stderr for one in ended)
    assert (folder / "model.py").read_text() == MODEL
    assert not (folder / "a.json").exists()


def test_a_saved_result_is_not_written_over_by_its_report(saved: tuple[Path, Ended, Ended]) -> None:
    folder, _, _ = saved
    before = (folder / "result.json").read_bytes()
    ended = called(folder, "show", "result.json", "--html", "result.json")
    assert ended.status == 2
    assert "would write over `result.json`" in ended.stderr
    assert (folder / "result.json").read_bytes() == before

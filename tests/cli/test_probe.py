"""`probe` without a search: `--dry-run` measures nothing, `--fallback` answers where nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from autobatch.cli import console
from autobatch.cli.commands import cli
from autobatch.records.errors import DeviceError, TargetError, UsageError
from tests.cli.console import MODEL, autobatch, run

PROBE = (autobatch(), "probe", "model.py", "--device", "cpu")
BROKEN = "raise ValueError('no data today')\n"


def test_a_dry_run_shows_the_search_and_measures_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL + "batch_size = 16\nprint('imported')\n")
    plain, as_json = run(tmp_path, (*PROBE, "--dry-run"), (*PROBE, "--dry-run", "--json", "--budget", "5s"))
    assert (plain.status, as_json.status) == (0, 0), plain.stderr
    assert "batch size 16, `batch_size` of `model`" in plain.stdout
    assert plain.stderr.count("imported") == 1
    preview = json.loads(as_json.stdout)
    assert preview["schema"] == "autobatch-preview/1"
    assert preview["limits"]["budget_seconds"] == 5.0
    assert preview["workload"]["batch_size"] == 16
    assert preview["cached"] is False
    assert preview["start_seconds"] > 0


def test_a_fallback_is_printed_where_no_answer_is_found(tmp_path: Path) -> None:
    """jonathanking/protein-transformer 4: a way to switch it off."""
    (tmp_path / "model.py").write_text(BROKEN)
    quiet, wrong_call = run(
        tmp_path, (*PROBE, "-q", "--fallback", "32"), (*PROBE, "--fallback", "32", "--memory-limit", "3")
    )
    assert (quiet.status, quiet.stdout) == (0, "32\n")
    assert "error: `model.py` raised an error" in quiet.stderr
    assert "no data today" in quiet.stderr
    assert (wrong_call.status, wrong_call.stdout) == (2, "")


@pytest.mark.parametrize("error", [TargetError("a", code="b"), DeviceError("a", code="b"), KeyError("a bug")])
def test_every_error_but_that_of_the_call_has_a_fallback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, console.fallback_to(8):
        raise error
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.out == "8\n"
    assert printed.err.startswith("error: ")


@pytest.mark.parametrize("error", [UsageError("a", code="b"), KeyboardInterrupt(), SystemExit(130)])
def test_a_wrong_call_and_ctrl_c_have_none(error: BaseException) -> None:
    with pytest.raises(type(error)), console.fallback_to(8):
        raise error


def test_without_a_fallback_every_error_passes() -> None:
    with pytest.raises(TargetError), console.fallback_to(None):
        raise TargetError("a", code="b")


@pytest.mark.parametrize(
    "options",
    [
        ("--fallback", "8", "--json"),
        ("--fallback", "8", "--dry-run"),
        ("--dry-run", "-q"),
        ("--dry-run", "--save", "a.json"),
        ("--dry-run", "--html", "a.html"),
    ],
)
def test_options_that_exclude_each_other(options: tuple[str, ...], tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.write_text(BROKEN)
    ended = CliRunner().invoke(cli, ["probe", str(model), *options])
    assert isinstance(ended.exception, UsageError)
    assert "exclude each other" in ended.exception.message


def test_a_fallback_is_a_size() -> None:
    ended = CliRunner().invoke(cli, ["probe", "model.py", "--fallback", "0"], standalone_mode=False)
    assert isinstance(ended.exception, click.BadParameter)

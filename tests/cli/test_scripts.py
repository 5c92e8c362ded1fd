"""Whose arguments are whose in `autobatch probe ... -- COMMAND`."""

from __future__ import annotations

import click
from click.testing import CliRunner

from autobatch.cli import scripts
from autobatch.cli.commands import cli
from autobatch.records.limits import Limits


def test_probe_with_a_command_is_a_command_of_its_own():
    command, arguments = scripts.chosen(cli, ["probe", "--json", "--", "python", "t.py", "--json"])
    assert command is scripts.probe_script
    assert arguments == ["--json", "--", "python", "t.py", "--json"]


def test_probe_with_a_target_stays_what_it_was():
    assert scripts.chosen(cli, ["probe", "model.py"]) == (cli, ["probe", "model.py"])


def test_what_stands_after_the_dashes_is_the_commands():
    assert scripts.arguments_of_autobatch(["run", "--fresh", "--", "t", "--json", "--", "x"]) == [
        "run",
        "--fresh",
    ]
    assert scripts.arguments_of_autobatch(["show", "--json"]) == ["show", "--json"]


def test_arguments_after_a_target_are_the_targets():
    words = ["probe", "--budget", "20s", "main.py", "--json", "--", "--epochs", "3"]
    assert scripts.chosen(cli, words) == (cli, words)
    # The value of an option is no target.
    command, _ = scripts.chosen(cli, ["probe", "--budget", "20s", "--", "python", "main.py"])
    assert command is scripts.probe_script


def test_the_help_of_a_command_is_that_of_its_options():
    for option in ("-h", "--help"):
        command, arguments = scripts.chosen(cli, ["probe", option, "--", "python", "main.py"])
        assert command is scripts.probe_script
        ended = CliRunner().invoke(command, arguments, prog_name="autobatch probe")
        assert ended.exit_code == 0
        assert ended.stdout.startswith("Usage: autobatch probe [OPTIONS] -- COMMAND...\n")
        assert "--input-shape" not in ended.stdout


def limits_of(command: click.Command, *arguments: str) -> Limits:
    context = command.make_context("autobatch", [*arguments, "--", "python", "main.py"])
    return scripts.limits_of(context.params)


def test_a_number_that_is_applied_alone_is_decided_at_the_scripts_own_rate():
    report = limits_of(scripts.probe_script)
    assert not report.keep_learning_rate
    assert not report.number_alone
    number = limits_of(scripts.probe_script, "-q")
    assert number.keep_learning_rate
    assert number.number_alone


def test_a_run_is_decided_for_the_rate_that_it_will_have():
    assert limits_of(scripts.run_script).keep_learning_rate
    assert not limits_of(scripts.run_script, "--apply-lr").keep_learning_rate

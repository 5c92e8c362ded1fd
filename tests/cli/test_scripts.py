"""Whose arguments are whose in `autobatch probe ... -- COMMAND`."""

from __future__ import annotations

from autobatch.cli import scripts
from autobatch.cli.commands import cli


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

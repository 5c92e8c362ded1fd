"""Completion in bash, zsh and fish, by the real command with the variables that their scripts set."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.console import autobatch

SHELLS = ("bash", "zsh", "fish")
REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def asked(instruction: str, folder: Path, **variables: str) -> str:
    ended = subprocess.run(
        [autobatch()],
        cwd=folder,
        env={**os.environ, "_AUTOBATCH_COMPLETE": instruction, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def completed(shell: str, folder: Path, *words: str) -> str:
    """What the shell is offered for the last word."""
    variables = {"COMP_WORDS": " ".join(["autobatch", *words]), "COMP_CWORD": str(len(words))}
    if shell == "fish":  # it gives the last word in place of its number
        variables["COMP_CWORD"] = words[-1]
    return asked(f"{shell}_complete", folder, **variables)


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_options_choices_and_paths(shell: str, tmp_path: Path) -> None:
    commands = completed(shell, tmp_path, "pr")
    assert "probe" in commands
    assert "plan" not in commands
    options = completed(shell, tmp_path, "probe", "model.py", "--max")
    assert "--max-batch" in options
    assert "--min-batch" not in options
    assert "throughput" in completed(shell, tmp_path, "probe", "model.py", "--objective", "thr")
    assert "file" in completed(shell, tmp_path, "probe", "mod")


def test_a_wrong_configuration_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.autobatch]\nbudgt = 1\n")
    assert "--max-batch" in completed("bash", tmp_path, "probe", "model.py", "--max")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_can_read(shell: str, tmp_path: Path) -> None:
    script = asked(f"{shell}_source", tmp_path)
    assert f"{shell}_complete" in script
    if (program := shutil.which(shell)) is not None:
        (tmp_path / "script").write_text(script)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True, timeout=60)


def test_bash_offers_a_command(tmp_path: Path) -> None:
    """The script in a real bash, as far as one can go without a keyboard."""
    bash = shutil.which("bash") or pytest.skip("bash is not installed")
    ask = """
        . ./script
        COMP_WORDS=(autobatch pro); COMP_CWORD=1
        _autobatch_completion autobatch
        echo "${COMPREPLY[@]}"
    """
    (tmp_path / "script").write_text(asked("bash_source", tmp_path))
    path = f"{Path(autobatch()).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        [bash, "-c", ask],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout.split() == ["probe"], ended.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_reference_has_the_command(shell: str) -> None:
    assert re.search(
        rf"`_AUTOBATCH_COMPLETE={shell}_source autobatch > ", REFERENCE.read_text(encoding="utf-8")
    )

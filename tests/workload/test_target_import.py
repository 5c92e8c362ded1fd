"""Importing a target file or a module, and the errors of its import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autobatch.records.errors import TargetError, UsageError
from autobatch.workload.target import load_parts
from tests.workload.target_files import HEAD, refusal


def test_a_file_is_found_by_its_path_and_may_import_its_neighbours(folder: Path) -> None:
    inner = folder / "deep"
    inner.mkdir()
    (inner / "neighbour_of_net.py").write_text("width = 3\n")
    (inner / "deep_net.py").write_text(
        HEAD + "from neighbour_of_net import width\nmodel = nn.Linear(2, width)\n"
    )
    assert load_parts("deep/deep_net.py").ready_model is not None


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

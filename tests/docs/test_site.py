"""The documentation builds without a warning, and its notebook runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_answer.ipynb"


def code_of(notebook: Path) -> str:
    """The code cells as one program; lines for the notebook's own commands are left out."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
    return "".join(line for line in lines if not line.startswith(("%", "!")))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    ended = subprocess.run(
        [*build, "-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in (tmp_path / "site").glob("*.html")} >= pages
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "A problem that the user has to repair" in api
    options = (tmp_path / "site" / "cli.html").read_text(encoding="utf-8")
    assert "--memory-limit" in options


def test_the_notebook_is_a_program() -> None:
    compile(code_of(NOTEBOOK), NOTEBOOK.name, "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", code_of(NOTEBOOK)],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "epoch 5: loss" in ended.stdout

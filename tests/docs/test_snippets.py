"""What README.md and docs/*.md tell people to type works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autobatch.examples import digits_cnn
from tests.docs import snippets

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)

# A program that takes the batch size, as people have.
TRAIN = """\
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, required=True)
parser.add_argument("--lr", type=float)
print("training at", parser.parse_args().batch_size)
"""


def run(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a page's snippets in a folder with the files that a reader would have."""
    (folder / "model.py").write_text(Path(digits_cnn.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    return subprocess.run(
        [sys.executable, snippets.__file__, str(page)],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **_trackers(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def _trackers(folder: Path) -> dict[str, str]:
    """What keeps trackers from asking anybody, and their files in the folder."""
    homes = {f"WANDB_{name}_DIR": str(folder / "wandb") for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    mlflow = {"MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    return {**homes, **mlflow, "MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_MODE": "offline"}


@PAGE
def test_every_python_snippet_is_python_and_every_console_snippet_has_a_command(page: Path):
    for snippet in snippets.parse(page.read_text(encoding="utf-8")):
        if snippet.language == "python":
            compile(snippet.text, f"{page.name}:{snippet.line}", "exec")
        if snippet.language == "console":
            assert snippet.commands, f"{page.name}:{snippet.line} has no line that begins with `$ `"


@PAGE
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_snippet_runs(page: Path, tmp_path: Path):
    ended = run(page, tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]


def written(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_snippets_share_names_files_and_a_folder(tmp_path: Path):
    page = written(
        tmp_path,
        "```python\nnumber = 41\n```\n\nThen:\n\n<!-- file: sub/one.txt -->\n```yaml\nkey: 1\n```\n"
        "```console\n$ cat sub/one.txt \\\n    > two.txt\nshown only\n"
        "$ python -c 'print(5)' >> two.txt\n```\n"
        "```python\nopen('three.txt', 'w').write(f'{number + 1} {open(\"two.txt\").read()}')\n```\n"
        '```sh\nsize=$(cat three.txt)\necho "$size" > four.txt\n```\n',
    )
    ended = run(page, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "four.txt").read_text() == "42 key: 1\n5\n"


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("```python\nx = 1\nassert x == 2\n```\n", "AssertionError"),
        ("```python\nimport sys\nsys.exit(0)\n```\n", "SystemExit"),
        ("```console\n$ true\n$ sh -c 'echo why >&2; exit 3'\n```\n", "ended with status 3:\nwhy"),
        ("```sh\nfalse\ntrue\n```\n", "ended with status 1"),
    ],
)
def test_a_snippet_that_fails_is_told_with_its_line(tmp_path: Path, block: str, told: str):
    ended = run(written(tmp_path, f"# Page\n\n{block}"), tmp_path)
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "in the snippet of line 3" in ended.stderr


def test_only_a_marker_right_above_keeps_a_snippet_from_running(tmp_path: Path):
    marked = "<!-- not run: takes a GPU -->\n```python\n1 / 0\n```\n"
    ended = run(written(tmp_path, marked), tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "line 2: not run: takes a GPU\n")
    apart = "<!-- not run: takes a GPU -->\n\nSome words.\n\n```python\n1 / 0\n```\n"
    assert run(written(tmp_path, apart), tmp_path).returncode == 1


def test_other_blocks_and_what_sets_up_the_checkout_are_left_alone(tmp_path: Path):
    page = written(
        tmp_path,
        "```\n$ false\n```\n```json\n{\n```\n```console\n$ make demo   # a comment\n$ pip install .\n```\n",
    )
    assert run(page, tmp_path).returncode == 0

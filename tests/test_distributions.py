"""The wheel and the source archive: built from a copy of this tree, installed and used without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from autobatch import __version__

ROOT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".cache", ".hypothesis", "*.egg-info", "__pycache__", "build", "dist"
)
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
SCRIPT = """
import argparse
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=16)
options = parser.parse_args()
data = TensorDataset(torch.randn(256, 8), torch.randint(2, (256,)))
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    for inputs, labels in DataLoader(data, options.batch_size, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    copy = shutil.copytree(ROOT, tmp_path_factory.mktemp("build") / "source", ignore=IGNORED)
    built = tmp_path_factory.mktemp("dist")
    for kind in ("build_sdist", "build_wheel"):
        command = [sys.executable, "-c", BUILD, kind, str(built)]
        subprocess.run(command, cwd=copy, check=True, capture_output=True)
    return built


@pytest.fixture(scope="module")
def environment(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, which borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (wheel,) = distributions.glob("*.whl")
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True
    )
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # Packages of the environment itself come first, so autobatch is that of the wheel.
    (packages / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n", encoding="utf-8")
    return folder / "bin"


def test_both_carry_the_version_of_the_package(distributions: Path) -> None:
    names = sorted(path.name for path in distributions.iterdir())
    assert names == [
        f"torch_autobatch-{__version__}-py3-none-any.whl",
        f"torch_autobatch-{__version__}.tar.gz",
    ]


def test_the_source_archive_holds_what_the_tests_need(distributions: Path) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    kept = ("tests", "benchmarks", "docs", "autobatch")
    expected = {
        str(path.relative_to(ROOT))
        for folder in kept
        for path in (ROOT / folder).rglob("*.*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert not sorted(expected - names)
    assert {"pyproject.toml", "Makefile", "constraints-cpu.txt", "README.md", "CHANGELOG.md"} <= names


def test_the_wheel_holds_the_package_alone(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "autobatch",
        f"torch_autobatch-{__version__}.dist-info",
    }
    assert {"autobatch/py.typed", "autobatch/storage/schema.json"} <= set(names)
    assert any(name.startswith("autobatch/reports/html/") and name.endswith(".css") for name in names)


@pytest.mark.skipif(os.name != "posix", reason="the layout of an environment")
def test_an_environment_with_the_wheel_probes_an_example_and_a_script(
    environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    asked = "import autobatch; print(autobatch.__file__, autobatch.__version__)"
    package, version = _output(environment / "python", "-c", asked, folder=tmp_path).split()
    assert Path(package).is_relative_to(environment.parent)
    assert version == __version__
    options = ("--budget", "5s", "--json")
    for target in (("--fresh", "autobatch.examples.charlm"), ("--", "python", "train.py")):
        answer = json.loads(_output(environment / "autobatch", "probe", *options, *target, folder=tmp_path))
        assert answer["ok"], answer
        assert answer["batch_size"] >= 1


def _output(program: Path, *arguments: str, folder: Path) -> str:
    """Standard output of a program of the environment, which sees nothing of this tree."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = os.pathsep.join((str(program.parent), os.environ["PATH"]))
    ended = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout

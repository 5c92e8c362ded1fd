"""The files around the package agree with each other: versions, workflows, hooks, commands of make."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from autobatch import __version__
from benchmarks import matrix

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT: dict[str, Any] = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    """Release of each package in the constraints."""
    lines = (ROOT / "constraints-cpu.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def commands(workflow: Any) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_the_citation_is_of_this_version() -> None:
    assert read(ROOT / "CITATION.cff")["version"] == __version__
    assert read(ROOT / "CITATION.cff")["license"] == PROJECT["project"]["license"]


def test_the_hooks_format_as_make_does() -> None:
    hooks = {hook["repo"]: hook["rev"] for hook in read(ROOT / ".pre-commit-config.yaml")["repos"]}
    assert hooks["https://github.com/astral-sh/ruff-pre-commit"] == f"v{pins()['ruff']}"


def test_the_constraints_name_each_package_once() -> None:
    text = (ROOT / "constraints-cpu.txt").read_text(encoding="utf-8")
    names = [re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)]
    assert len(names) > 50
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_only_and_ends(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text(encoding="utf-8")
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_make_as_it_is(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    called = [command.split()[1] for command in commands(read(path)) if command.startswith("make ")]
    assert called
    assert set(called) <= targets


def test_every_supported_python_is_tested() -> None:
    (job,) = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"].values()
    rows = read(ROOT / ".github" / "workflows" / "matrix.yml")["jobs"]["versions"]["strategy"]["matrix"]
    versions = {*job["strategy"]["matrix"]["python"], *(row["python"] for row in rows["include"])}
    minors = sorted(int(version.removeprefix("3.")) for version in versions)
    assert PROJECT["project"]["requires-python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))
    named = [entry for entry in PROJECT["project"]["classifiers"] if ":: Python :: 3." in entry]
    assert named == [f"Programming Language :: Python :: 3.{minor}" for minor in minors]


def test_the_workflow_tests_each_environment_of_the_matrix() -> None:
    rows = read(ROOT / ".github" / "workflows" / "matrix.yml")["jobs"]["versions"]["strategy"]["matrix"]
    tested = [(row["python"], row["torch"]) for row in rows["include"]]
    assert tested == [(environment.python, environment.torch) for environment in matrix.ENVIRONMENTS]
    assert f"torch>={matrix.ENVIRONMENTS[0].torch.removesuffix('.0')}" in PROJECT["project"]["dependencies"]


def test_a_junit_report_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite time="1.6"><testcase classname="a" name="b"/>'
        '<testcase classname="a" name="c"><skipped message="no GPU"/></testcase>'
        '<testcase classname="a" name="d"><failure message="x"/></testcase>'
        '<testcase classname="a" name="e"><error message="x"/></testcase></testsuite></testsuites>',
        encoding="utf-8",
    )
    counted = matrix.read_report(report)
    assert counted == {"passed": 1, "skipped": {"no GPU": 1}, "failed": ["a::d", "a::e"], "seconds": 2}


def test_a_recorded_failure_is_named_as_pytest_takes_it() -> None:
    name = "tests.workload.test_precision::test_a_word[fp16.5]"
    assert matrix.node_id(name) == "tests/workload/test_precision.py::test_a_word[fp16.5]"


def test_the_page_has_the_table_of_the_recorded_runs() -> None:
    assert matrix.table() in matrix.PAGE.read_text(encoding="utf-8")


def test_help_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    listed = re.findall(r'@echo "make (\w+) ', MAKEFILE)
    assert set(listed) == set(phony.split()) - {"help", "setup"}

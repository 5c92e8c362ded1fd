"""Runs the quick tests with the oldest torch, the newest and some in between, and writes the table.

    python benchmarks/matrix.py                        # every environment whose interpreter is here
    python benchmarks/matrix.py --torch 2.6.0 --paths tests/workload tests/devices
    python benchmarks/matrix.py --torch 2.6.0 --again  # only the recorded failures
    python benchmarks/matrix.py --write                # the table of docs/versions.md, from the results

An environment is made in a temporary folder and removed afterwards, so that one at a time takes space: a
CUDA build of torch, which runs on a CPU too, takes about 5 GB. `--keep FOLDER` makes or takes it there,
and leaves it. A Python that is not here has its sources checked alone, by mypy and ruff.

Results go to `results/matrix.json`, one for each environment; a later run replaces the earlier. With
`--again`, failures that pass now are recorded as `mended`, beside the counts of the run that had them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "matrix.json"
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
PROBE = ("-m", "autobatch", "probe", "autobatch.examples.digits_cnn", "--fresh", "--budget", "20s", "--json")
LISTED = ("torch", "numpy", "lightning", "transformers", "accelerate", "keras")


@dataclass(frozen=True)
class Environment:
    """A Python, a torch, and what else is pinned; the rest is the newest that pip finds."""

    python: str
    torch: str
    pins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"python{self.python}-torch{self.torch}"


ENVIRONMENTS = (
    Environment("3.10", "2.6.0", ("numpy==1.26.4",)),
    Environment("3.12", "2.8.0", ("numpy==1.26.4",)),
    Environment("3.12", "2.11.0"),
    Environment("3.11", "2.13.0"),
    Environment("3.13", "2.14.1"),
    Environment("3.14", "2.14.1"),
)


def main() -> int:
    options = _options()
    chosen = [
        environment
        for environment in ENVIRONMENTS
        if options.torch in (None, environment.torch) and options.python in (None, environment.python)
    ]
    if not chosen:
        print("no environment has this torch and Python: see ENVIRONMENTS", file=sys.stderr)
        return 2
    if options.write:
        write_table()
        return 0
    records = [record(environment, options) for environment in chosen]
    for environment, facts in zip(chosen, records, strict=True):
        print(f"{environment.name}: {_summary(facts)}")
    return int(any(facts.get("failed") or facts.get("probe_error") for facts in records))


def record(environment: Environment, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one environment and keep the facts under its name."""

    def measure(folder: Path) -> dict[str, Any]:
        if options.again:
            return _test_again(folder, _recorded()[environment.name], options)
        return _test(folder, options)

    kept_folder = Path(options.keep) / environment.name if options.keep else None
    interpreter = _interpreter(environment.python)
    if kept_folder is not None and (kept_folder / "bin" / "python").exists():
        facts = measure(kept_folder)
    elif interpreter is None:
        facts = {"date": _now(), "sources_only": _check_sources(environment.python)}
    elif kept_folder is not None:
        _make(environment, interpreter, kept_folder)
        facts = measure(kept_folder)
    else:
        with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
            _make(environment, interpreter, Path(folder))
            facts = measure(Path(folder))
    kept = _recorded()
    kept[environment.name] = {"python": environment.python, "torch": environment.torch, **facts}
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return facts


def _recorded() -> dict[str, Any]:
    """The results so far, by the names of the environments."""
    kept: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return kept


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _interpreter(python: str) -> str | None:
    """The Python of this version on the path that starts and has this version; None without one."""
    for name in (f"python{python}", "python3", sys.executable):
        path = shutil.which(name)
        if path is None:
            continue
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        started = subprocess.run([path, "-c", asked], capture_output=True, text=True, check=False)
        if started.stdout.strip() == python:
            return path
    return None


def _test(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    python = folder / "bin" / "python"
    facts: dict[str, Any] = {
        "date": _now(),
        "packages": _packages(python),
        "paths": options.paths,
        **_run_tests(python, ["-m", "not slow", *options.paths], options.processes),
    }
    probed = subprocess.run([str(python), *PROBE], cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        facts["probe_batch_size"] = json.loads(probed.stdout)["batch_size"]
    except (ValueError, KeyError):
        facts["probe_error"] = probed.stderr[-2000:]
    return facts


def _test_again(folder: Path, facts: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The facts with those of the failed tests that pass now as `mended`."""
    if not facts["failed"]:
        return facts
    tests = [node_id(name) for name in facts["failed"]]
    failed = _run_tests(folder / "bin" / "python", tests, options.processes)["failed"]
    mended = {*facts.get("mended", ()), *facts["failed"]} - {*failed}
    return {**facts, "failed": failed, "mended": sorted(mended)}


def node_id(name: str) -> str:
    """The test as pytest takes it, from its recorded name: `tests/room/test_file.py::test_name[case]`."""
    module, _, test = name.partition("::")
    return f"{module.replace('.', '/')}.py::{test}"


def _run_tests(python: Path, arguments: Sequence[str], processes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        side_by_side = ["-n", str(processes), "--dist", "worksteal"] if processes > 1 else []
        subprocess.run([*command, *side_by_side, *arguments], cwd=ROOT, check=False)
        return read_report(report)


def _make(environment: Environment, interpreter: str, folder: Path) -> None:
    """A virtual environment with the environment's torch, this tree and all that its tests need."""
    subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--upgrade", "pip"], check=True)
    subprocess.run(
        [*pip, "--no-cache-dir", f"torch=={environment.torch}", *environment.pins, "-e", f"{ROOT}[dev]"],
        check=True,
    )


def _packages(python: Path) -> dict[str, str]:
    asked = (
        "import json, platform, sys\nfrom importlib import metadata\n"
        "installed = {each.name.lower(): each.version for each in metadata.distributions()}\n"
        "versions = {name: installed[name] for name in sys.argv[1:] if name in installed}\n"
        "print(json.dumps({'python': platform.python_version(), **versions}))"
    )
    answered = subprocess.run([str(python), "-c", asked, *LISTED], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(answered.stdout)
    return versions


def read_report(report: Path) -> dict[str, Any]:
    """Tests passed, skipped by reason, and the names of those that failed, from a JUnit report."""
    skipped: Counter[str] = Counter()
    failed: list[str] = []
    passed, seconds = 0, 0.0
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        seconds += float(suite.get("time", 0))
        for case in suite.iter("testcase"):
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname')}::{case.get('name')}")
            elif skip is not None:
                skipped[str(skip.get("message"))] += 1
            else:
                passed += 1
    return {
        "passed": passed,
        "skipped": dict(sorted(skipped.items())),
        "failed": sorted(failed),
        "seconds": round(seconds),
    }


def _check_sources(python: str) -> dict[str, bool]:
    """Whether mypy and ruff accept the sources for a Python that is not here."""
    target = "py" + python.replace(".", "")
    checks = {
        "mypy": ["mypy", "--strict", "--python-version", python],
        "ruff": ["ruff", "check", "--quiet", "--target-version", target, "--select", "E9,F", "."],
    }
    return {
        name: subprocess.run([sys.executable, "-m", *check], cwd=ROOT, check=False).returncode == 0
        for name, check in checks.items()
    }


def write_table() -> None:
    """Replace the table of the page by that of the recorded results."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


def table() -> str:
    """The recorded results as a Markdown table, in the order of ENVIRONMENTS."""
    kept = _recorded()
    lines = [
        "| torch | Python | numpy | quick tests | passed | skipped | failed | failed, pass since |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for environment in ENVIRONMENTS:
        facts = kept.get(environment.name)
        if facts is None:
            continue
        if "sources_only" in facts:
            accepted = ", ".join(name for name, passed in facts["sources_only"].items() if passed)
            lines.append(f"| - | {environment.python} | - | sources only: {accepted} | - | - | - | - |")
            continue
        packages = facts["packages"]
        cells = (
            packages["torch"],
            packages["python"],
            packages["numpy"],
            ", ".join(path.removeprefix("tests/") for path in facts["paths"]).replace("tests", "all"),
            f"{facts['passed']:,}",
            f"{sum(facts['skipped'].values()):,}",
            f"{len(facts['failed']):,}",
            f"{len(facts.get('mended', ())):,}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _summary(facts: dict[str, Any]) -> str:
    if "sources_only" in facts:
        return f"no interpreter; sources accepted: {facts['sources_only']}"
    skipped = "".join(f"\n  skipped {count}: {reason}" for reason, count in facts["skipped"].items())
    failed = "".join(f"\n  failed: {name}" for name in facts["failed"])
    probe = facts.get("probe_error") or f"the probe recommends {facts['probe_batch_size']}"
    return f"{facts['passed']} passed in {facts['seconds']} s; {probe}{skipped}{failed}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torch", help="only the environments with this torch, such as 2.6.0")
    parser.add_argument("--python", help="only the environments with this Python, such as 3.10")
    parser.add_argument("--paths", nargs="+", default=["tests"], help="the tests to run; the default is all")
    parser.add_argument("--again", action="store_true", help="run only the recorded failures")
    parser.add_argument("--processes", type=int, default=1, help="tests that run at a time")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="make or take the environments there, and leave them"
    )
    parser.add_argument("--write", action="store_true", help="only write the table of docs/versions.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

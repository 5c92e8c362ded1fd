"""Imports point down only, `import autobatch` is light, public names are as written, tests mirror modules."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import autobatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "autobatch"
TESTS = ROOT / "tests"

# Rooms, lowest first: a room is a package (or a lone module) right under autobatch/. A room may import from
# the layers below, and from its own where no circle comes of it. The package itself stands above all.
LAYERS = (
    ("_version",),
    ("records",),
    ("decision", "devices"),
    ("workload", "storage"),
    ("memory", "reports"),
    ("engines",),
    ("worker", "measurement", "planning"),
    ("progress",),
    ("api",),
    ("fleet", "integrations", "scripts"),
    ("cli", "__main__"),
)
# Nothing imports these, and they import nothing but what a user would: they are the user's side.
ALONE = ("examples",)

PUBLIC = (
    "find",
    "plan",
    "rebuild",
    "recommend",
    "load",
    "save",
    "Limits",
    "Recommendation",
    "AutobatchError",
    "__version__",
)
# `import autobatch` may load this many modules beyond those of a bare Python.
MOST_MODULES = 60
HEAVY = ("torch", "numpy", "sklearn", "rich", "click", "msgspec", "cloudpickle", "psutil", "pynvml")

# Rooms whose modules each have a test file of their name: decision/search.py has decision/test_search.py.
MIRRORED = ("decision", "records", "workload", "measurement")
FIELDS = "fields alone; tests/storage/test_codec.py writes and reads every one"
# Modules of these rooms without such a file, and the reason.
UNTESTED = {
    "records/cached.py": FIELDS,
    "records/check.py": FIELDS,
    "records/comparison.py": FIELDS,
    "records/device.py": FIELDS,
    "records/fleet.py": FIELDS,
    "records/plan.py": FIELDS,
    "records/preview.py": FIELDS,
    "records/scaling.py": FIELDS,
    "records/interruption.py": "an exception with two fields; tests/faults/test_user_process.py catches it",
}

LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}


def imported_rooms(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and room of each import from autobatch in `source`; room "" is the package itself.

    Late imports and those for type checkers count too: to know of a room is to depend on it.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "autobatch" else [base]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "autobatch":
                yield node.lineno, rest[0] if rest else ""


def modules(package: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, dotted name and room of each module of the package; room "" is the package itself."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        inner = parts[:-1] if parts[-1] == "__init__" else parts
        yield path, ".".join(["autobatch", *inner]), inner[0] if inner else ""


def faults(package: Path) -> list[str]:
    """What is wrong with the imports of a package laid out like autobatch/, one line for each fault."""
    found = []
    graph: dict[str, set[str]] = {}
    unlisted = {room for _, _, room in modules(package)} - {"", *LAYER_OF, *ALONE}
    for path, name, room in modules(package):
        if room in unlisted:
            found.append(f"{name}: `{room}` has no layer; give it one in LAYERS of this test")
            continue
        for line, target in imported_rooms(
            path.read_text(encoding="utf-8"), name, path.name == "__init__.py"
        ):
            where = f"{path.relative_to(package.parent).as_posix()}:{line}"
            if room in ALONE and target not in (room, "integrations"):
                found.append(f"{where}: `{room}` stands alone and must not import from autobatch")
            elif room in ("", target) or room in ALONE or target in unlisted:
                continue
            elif target in ALONE:
                found.append(f"{where}: nothing imports `{target}`")
            elif target not in LAYER_OF:
                found.append(
                    f"{where}: import from the room itself, not `{target or 'autobatch'}` from the top"
                )
            elif LAYER_OF[target] > LAYER_OF[room]:
                found.append(f"{where}: `{room}` must not import `{target}`, which stands above it")
            else:
                graph.setdefault(room, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"rooms import each other in a circle: {' <- '.join(error.args[1])}")
    return found


def test_imports_point_down_only():
    found = faults(PACKAGE)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (
            {"records/trial.py": "from autobatch.decision.search import next_move"},
            "must not import `decision`",
        ),
        ({"records/trial.py": "from ..cli import commands"}, "`records` must not import `cli`"),
        (
            {"engines/base.py": "def f():\n    from .. import api"},
            "base.py:2: `engines` must not import `api`",
        ),
        ({"devices/cpu.py": "import autobatch.engines.messages"}, "`devices` must not import `engines`"),
        ({"api.py": "import autobatch"}, "import from the room itself, not `autobatch`"),
        ({"api.py": "from autobatch import Limits"}, "import from the room itself, not `Limits`"),
        ({"cli/commands.py": "import autobatch.examples"}, "nothing imports `examples`"),
        ({"examples/a.py": "from autobatch.records.trial import Trial"}, "`examples` stands alone"),
        ({"helpers.py": ""}, "autobatch.helpers: `helpers` has no layer"),
        (
            {"memory/a.py": "import autobatch.reports", "reports/a.py": "import autobatch.memory.a"},
            "in a circle",
        ),
    ],
)
def test_a_fault_is_found(tmp_path: Path, files: dict[str, str], fault: str):
    write_package(tmp_path / "autobatch", files)
    (found,) = faults(tmp_path / "autobatch")
    assert fault in found


def test_what_is_allowed_is_no_fault(tmp_path: Path):
    write_package(
        tmp_path / "autobatch",
        {
            "__init__.py": "from autobatch.api import find",
            "records/limits.py": "from autobatch.records.errors import UsageError",
            "engines/__init__.py": "from .local import open_engine\nfrom . import base",
            "engines/local.py": "from ..records import trial\nfrom autobatch import devices\nimport torch",
            "api.py": "import autobatch.engines.local as local",
            "examples/a.py": "from autobatch.examples import b",
        },
    )
    assert faults(tmp_path / "autobatch") == []


def write_package(package: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_importing_autobatch_is_light():
    program = (
        "import sys, json; bare = set(sys.modules); import autobatch; "
        "print(json.dumps(sorted(set(sys.modules) - bare)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = json.loads(ended.stdout)
    assert not set(HEAVY).intersection(loaded)
    assert len(loaded) <= MOST_MODULES, loaded


def test_the_public_names_are_the_written_ones():
    assert sorted(autobatch.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(autobatch))
    for name in PUBLIC:
        assert getattr(autobatch, name) is not None


def test_no_module_is_named_like_a_public_function():
    functions = {name for name in PUBLIC if name.islower() and not name.startswith("_")}
    named = {path.stem for path in PACKAGE.iterdir()}
    assert not functions & named


def modules_without_tests(package: Path, tests: Path, rooms: tuple[str, ...]) -> set[str]:
    """The modules of `rooms`, as paths below `package`, for which `tests` has no file of their name."""
    paths = {path.relative_to(package) for room in rooms for path in (package / room).rglob("*.py")}
    return {
        path.as_posix()
        for path in paths
        if path.name != "__init__.py" and not (tests / path.parent / f"test_{path.name}").exists()
    }


def test_each_module_has_a_test_file_of_its_name():
    assert modules_without_tests(PACKAGE, TESTS, MIRRORED) == set(UNTESTED)


def test_a_module_without_tests_is_found(tmp_path: Path):
    write_package(
        tmp_path,
        {
            "package/records/__init__.py": "",
            "package/records/trial.py": "",
            "package/records/keras/archive.py": "",
            "package/records/limits.py": "",
            "package/reports/text.py": "",
            "tests/records/test_trial.py": "",
        },
    )
    found = modules_without_tests(tmp_path / "package", tmp_path / "tests", ("records",))
    assert found == {"records/limits.py", "records/keras/archive.py"}

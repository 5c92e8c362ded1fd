"""The number of constants that decisions depend on is held down."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

COUNTER = Path(__file__).resolve().parents[2] / "benchmarks" / "count_constants.py"
# Each one is a rule that users are exposed to. A new one replaces another, or shows its gain in a benchmark.
AT_MOST = 50


def test_the_constants_of_the_decision_path_are_few() -> None:
    command = [sys.executable, str(COUNTER), "--rooms", "decision", "measurement"]
    ended = subprocess.run([*command, "--at-most", str(AT_MOST)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert subprocess.run([*command, "--at-most", "3"], capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("LIMIT = 3", ["LIMIT"]),
        ("LOW, HIGH = 3, 4.5", ["LOW", "HIGH"]),
        ("POWERS = {'SGD': 1.0, 'Adam': 0.5}", ["POWERS"]),
        ("GIB = 1 << 30\nQUANTILE = inverse(0.95)\nNAME = 'x'", []),
        ("def f(x):\n    return x > 3 * y", ["in a condition"]),
        ("def f(x, most=7, *, least=0):\n    return x * 9", ["default in f"]),
        ("if a > 0 and b <= 1 and c < -1 and d == 2 and e < 0.5:\n    pass", []),
        ("class Record:\n    seconds: float = 60.0\n    count: int = 0", ["default in Record"]),
    ],
)
def test_numbers_that_decide_are_counted(tmp_path: Path, source: str, names: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("count_constants", COUNTER)
    assert spec is not None
    assert spec.loader is not None
    counter = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = counter  # dataclasses look their module up
    spec.loader.exec_module(counter)
    (tmp_path / "module.py").write_text(source)
    assert [constant.name for constant in counter.constants(tmp_path / "module.py")] == names

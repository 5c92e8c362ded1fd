"""The README's row for NVIDIA GPUs, from the results that on_gpu.py has left in results/on_gpu/*/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "on_gpu"
README = ROOT / "README.md"
ROW = re.compile(r"^\| NVIDIA \(CUDA\) \| .* \|$", re.MULTILINE)
NOT_RUN = "**no**: NVML is tested against a stand-in library"


def row(results: Path = RESULTS) -> str:
    """The row: each GPU with its torch and the parts that finished, or that there is none."""
    summaries = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*/summary.json"))
    ]
    measured = [
        _machine(each) for each in summaries if each["device"] == "cuda" and "name" in each["machine"]
    ]
    return f"| NVIDIA (CUDA) | {'; '.join(measured) or NOT_RUN} |"


def _machine(summary: dict[str, Any]) -> str:
    machine, parts = summary["machine"], summary["parts"]
    finished = [name for name, state in parts.items() if state == "finished"]
    rest = [f"{name} {state.partition(':')[0]}" for name, state in parts.items() if state != "finished"]
    text = (
        f"{machine['name']}, torch {machine['torch']}, {summary['date']}: {', '.join(finished) or 'nothing'}"
    )
    return f"{text} ({', '.join(rest)})" if rest else text


def write() -> None:
    """Replace the row in the README."""
    text = README.read_text(encoding="utf-8")
    if len(ROW.findall(text)) != 1:
        raise SystemExit("README.md has no single row `| NVIDIA (CUDA) | ... |`")
    README.write_text(ROW.sub(lambda _: row(), text), encoding="utf-8")

"""Breaks user code on purpose, in every way and phase of tests/faults/cases.py, and counts what is survived.

    python benchmarks/faults.py [--only TEXT]

Run it in the repository's root. Survived: the case ends with the outcome or the error that it must end with,
within its limits, keeps the rows measured before, and leaves no process, temporary file or shared memory.
Writes results/faults.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from regret import environment

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults import cases, driving

RESULTS = Path(__file__).parent / "results" / "faults.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="only faults with this in their names; writes nothing")
    options = parser.parse_args()
    begun = datetime.now(UTC)
    chosen = [case for case in cases.MATRIX if options.only in case.fault.name]
    with driving.bench() as bench:
        ended = [_row(bench, case) for case in chosen]
    faults = _by_fault(ended)
    print(table(faults))
    if not options.only:
        RESULTS.write_text(document({"environment": environment(begun), "faults": faults, "cases": ended}))


def _row(bench: driving.Bench, case: cases.Case) -> dict[str, object]:
    """One case carried out, as it is written to the file."""
    named = {"fault": case.fault.name, "phase": case.phase, "expected": case.end}
    why_not = bench.missing(case)
    if why_not:
        return {**named, "skipped": why_not}
    ended = bench.carry_out(case)
    told = "; ".join(ended.problems) or ended.end
    print(f"{case.name}: {told}, {ended.seconds:.2f} s", file=sys.stderr, flush=True)
    return {
        **named,
        "end": ended.end,
        "rows": ended.rows,
        "seconds": round(ended.seconds, 3),
        "problems": ended.problems,
    }


def _by_fault(ended: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The cases of each fault, counted."""
    found: list[dict[str, object]] = []
    for name in dict.fromkeys(one["fault"] for one in ended):
        tried = [one for one in ended if one["fault"] == name and "skipped" not in one]
        seconds = [float(str(one["seconds"])) for one in tried]
        found.append(
            {
                "fault": name,
                "phases": [one["phase"] for one in tried],
                "tried": len(tried),
                "survived": sum(not one["problems"] for one in tried),
                "median_seconds": median(seconds) if seconds else None,
                "longest_seconds": max(seconds, default=None),
            }
        )
    return found


def table(faults: Sequence[dict[str, object]]) -> str:
    """A Markdown table: fault, phases, tried, survived, median and longest seconds."""
    lines = ["| fault | phases | tried | survived | median s | longest s |", "|---|---|---|---|---|---|"]
    tried = survived = 0
    for one in faults:
        phases = one["phases"]
        assert isinstance(phases, list)
        told = "all" if phases == list(cases.PHASES) else ", ".join(phases) or "skipped here"
        times = " | ".join(
            "" if one[key] is None else f"{one[key]:.2f}" for key in ("median_seconds", "longest_seconds")
        )
        lines.append(f"| {one['fault']} | {told} | {one['tried']} | {one['survived']} | {times} |")
        tried += int(str(one["tried"]))
        survived += int(str(one["survived"]))
    lines.append(f"| **together** | | {tried} | {survived} | | |")
    return "\n".join(lines)


def document(parts: dict[str, object]) -> str:
    """JSON with one fault and one case a line."""
    told = []
    for name, part in parts.items():
        lines = part if isinstance(part, list) else None
        value = json.dumps(part) if lines is None else "[\n" + ",\n".join(map(json.dumps, lines)) + "\n]"
        told.append(f"{json.dumps(name)}: {value}")
    return "{\n" + ",\n".join(told) + "\n}\n"


if __name__ == "__main__":
    main()

"""Break user code on purpose, in every way and phase of tests/faults/cases.py, and count the survived cases.

    python benchmarks/faults.py [--only TEXT]

Run it in the repository's root. Survived: the case ends with its expected outcome or error within its limits,
keeps the rows measured before, and leaves no process, temporary file or shared memory.
Writes results/faults.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
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
    begun = datetime.now(timezone.utc)
    chosen = [case for case in cases.MATRIX if options.only in case.fault.name]
    with driving.bench() as bench:
        ended = [_row(bench, case) for case in chosen]
    faults = _by_fault(ended)
    print(table(faults))
    if not options.only:
        RESULTS.write_text(document({"environment": environment(begun), "faults": faults, "cases": ended}))


def _row(bench: driving.Bench, case: cases.Case) -> dict[str, object]:
    """Run a case; the row of the results file."""
    identity = {"fault": case.fault.name, "phase": case.phase, "expected": case.end}
    missing = bench.missing(case)
    if missing:
        return {**identity, "skipped": missing}
    ended = bench.carry_out(case)
    result = "; ".join(ended.problems) or ended.end
    print(f"{case.name}: {result}, {ended.seconds:.2f} s", file=sys.stderr, flush=True)
    return {
        **identity,
        "end": ended.end,
        "rows": ended.rows,
        "seconds": round(ended.seconds, 3),
        "problems": ended.problems,
    }


def _by_fault(ended: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The number of tried and survived cases of each fault."""
    faults: list[dict[str, object]] = []
    for name in dict.fromkeys(row["fault"] for row in ended):
        tried = [row for row in ended if row["fault"] == name and "skipped" not in row]
        seconds = [float(str(row["seconds"])) for row in tried]
        faults.append(
            {
                "fault": name,
                "phases": [row["phase"] for row in tried],
                "tried": len(tried),
                "survived": sum(not row["problems"] for row in tried),
                "median_seconds": median(seconds) if seconds else None,
                "longest_seconds": max(seconds, default=None),
            }
        )
    return faults


def table(faults: Sequence[dict[str, object]]) -> str:
    """A Markdown table: fault, phases, tried, survived, median and longest seconds."""
    lines = ["| fault | phases | tried | survived | median s | longest s |", "|---|---|---|---|---|---|"]
    tried = survived = 0
    for fault in faults:
        phases = fault["phases"]
        assert isinstance(phases, list)
        phase_text = "all" if phases == list(cases.PHASES) else ", ".join(phases) or "skipped here"
        times = " | ".join(
            "" if fault[key] is None else f"{fault[key]:.2f}" for key in ("median_seconds", "longest_seconds")
        )
        lines.append(
            f"| {fault['fault']} | {phase_text} | {fault['tried']} | {fault['survived']} | {times} |"
        )
        tried += int(str(fault["tried"]))
        survived += int(str(fault["survived"]))
    lines.append(f"| **together** | | {tried} | {survived} | | |")
    return "\n".join(lines)


def document(parts: dict[str, object]) -> str:
    """JSON with a line for each fault and each case."""
    texts = []
    for name, part in parts.items():
        lines = part if isinstance(part, list) else None
        value = json.dumps(part) if lines is None else "[\n" + ",\n".join(map(json.dumps, lines)) + "\n]"
        texts.append(f"{json.dumps(name)}: {value}")
    return "{\n" + ",\n".join(texts) + "\n}\n"


if __name__ == "__main__":
    main()

"""Public training scripts, unmodified: knob, proof, answer, seconds, and the answer of an adapted model file.

    python benchmarks/scripts.py measure FOLDER [--only NAME ...] [--budget 60s]
    python benchmarks/scripts.py table

`measure` fetches the repositories of `public_scripts.py` into FOLDER by git, and writes a row for each script
to results/scripts.json. `benchmarks/script_data.py FOLDER` writes the data that they read. An adapter
(`adapters/adapt_NAME.py`) imports the fetched script and gives its parts to `autobatch probe`; scripts that
train when they are imported have none. `table` puts the rows into docs/scripts.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from math import log2
from pathlib import Path
from typing import Any

from public_scripts import COMMITS, SCRIPTS, Script, fetch

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scripts.json"
DOCUMENT = HERE.parent / "docs" / "scripts.md"
BEGIN, END = "<!-- table of benchmarks/scripts.py: begin -->", "<!-- end -->"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--only", nargs="+", default=[script.name for script in SCRIPTS])
    measuring.add_argument("--budget", default="60s")
    measuring.add_argument("--adapted-budget", default="30s")
    measuring.add_argument("--kinds", nargs="+", choices=("script", "adapted"), default=("script", "adapted"))
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "table":
        write_table()
        return
    root = options.folder.resolve()
    for script in SCRIPTS:
        if script.name in options.only:
            fetch(script.repository, root)
            if "script" in options.kinds:
                keep(script, measured(script, root, options.budget))
            if "adapted" in options.kinds:
                keep(script, adapted(script, root, options.adapted_budget))


def measured(script: Script, root: Path, budget: str) -> Row:
    """The answer for the unmodified command."""
    answer, seconds = probe(
        root / script.folder, ["--budget", budget, "--", *script.words(root, sys.executable)]
    )
    row: Row = {"budget": budget, "seconds": round(seconds), "expected": script.batch_size, "refused": None}
    if "error" in answer:
        return row | {"refused": answer["error"]["code"], "knob": None}
    checkout = f"{root / script.repository.replace('/', '+')}{os.sep}"
    return row | {
        "knob": answer["script"]["knob"].replace(checkout, ""),
        "size": answer["workload"]["batch_size"],
        "proven": answer["script"]["proven"],
        "answer": answer["batch_size"],
        "measured_sizes": sorted(
            trial["batch_size"] for trial in answer["trials"] if trial["outcome"] == "ok"
        ),
        "check": (answer["check"] or {}).get("status"),
        "trainings": len((answer["check"] or {}).get("trainings", [])),
        "torch": answer["environment"]["torch"],
        "warnings": answer["warnings"],
    }


def adapted(script: Script, root: Path, budget: str) -> Row:
    """The answer for the adapter, where there is one."""
    adapter = HERE / "adapters" / f"adapt_{script.name}.py"
    if not adapter.exists():
        return {"adapted": None}
    answer, seconds = probe(root / script.folder, ["--budget", budget, "--fresh", str(adapter)])
    size = None if "error" in answer else answer["batch_size"]
    return {
        "adapted": size,
        "adapted_refused": answer["error"]["code"] if "error" in answer else None,
        "adapted_seconds": round(seconds),
    }


def probe(folder: Path, arguments: list[str]) -> tuple[Row, float]:
    """The JSON of `autobatch probe`, and its seconds of wall time."""
    begin = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "autobatch", "probe", "--json", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    return json.loads(ended.stdout), time.monotonic() - begin


def keep(script: Script, figures: Row) -> None:
    """Put figures into the row of the script, in place of those of their kind, and print the row."""
    rows: dict[str, Row] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    commit = COMMITS[script.repository]
    of_adapter = "adapted" in figures
    earlier = rows.get(script.name, {}).items()
    others = {name: value for name, value in earlier if name.startswith("adapted") != of_adapter}
    row = others | figures | {"repository": script.repository, "commit": commit}
    rows[script.name] = row
    in_order = {each.name: rows[each.name] for each in SCRIPTS if each.name in rows}
    RESULTS.write_text(json.dumps(in_order, indent=1) + "\n")
    print(line_of(script.name, row), flush=True)


def line_of(name: str, row: Row) -> str:
    if row.get("refused"):
        cells = [f"refused: `{row['refused']}`", "", "", "", ""]
    elif "knob" not in row:
        cells = ["not measured", "", "", "", ""]
    else:
        size = (
            f"{row['size']}" if row["size"] == row["expected"] else f"{row['size']} (not {row['expected']})"
        )
        cells = [row["knob"], size, "yes" if row["proven"] else "no", str(row["answer"]), str(row["seconds"])]
    beside = str(row.get("adapted") or row.get("adapted_refused") or "-")
    return f"| {' | '.join((name, row['commit'][:10], *cells, beside))} |"


def write_table() -> None:
    kept: dict[str, Row] = json.loads(RESULTS.read_text())
    # A script whose adapter alone was measured has no row yet.
    rows = {name: row for name, row in kept.items() if "budget" in row}
    lines = [
        "| script | commit | batch size set by | current | proven | answer | seconds | adapted |",
        "|---|---|---|---|---|---|---|---|",
        *(line_of(name, row) for name, row in rows.items()),
        "",
        summary(list(rows.values())),
    ]
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + "\n".join([BEGIN, *lines, END]) + after)


def summary(rows: list[Row]) -> str:
    """Sentences that count the rows."""
    answered = [row for row in rows if not row["refused"]]
    right = sum(row["size"] == row["expected"] and row["proven"] for row in answered)
    both = [row for row in answered if row.get("adapted")]
    near = sum(abs(log2(row["answer"] / row["adapted"])) <= 1 for row in both)
    slowest = max(row["seconds"] for row in rows)
    refused = len(rows) - len(answered)
    text = (
        f"Of {len(rows)} scripts, {right} have their batch size found and proven, and {refused} are refused. "
        f"The slowest took {slowest} s."
    )
    if both:
        text += (
            f" Of {len(both)} with an adapter, {near} have an answer within one doubling of the adapter's."
        )
    return text


if __name__ == "__main__":
    main()

"""What the traced step saves a search for the ceiling: trials and steps with it and without.

    python benchmarks/ceiling_prior.py [--workload NAME ...] [--runs COUNT]

Needs Linux. The probe of `ceiling.py`, under the same limit, as it is and on a model that can't be traced, so
that the search goes by real peaks alone. The runs of both alternate; what is there is saved after each, and a
run goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from ceiling import WORKLOADS, environment
from ceilings import processes

from autobatch.records.formatting import parse_bytes

RESULTS = Path(__file__).parent / "results" / "ceiling_prior.json"
METHODS = (processes.TOOL, processes.UNTRACED)
MEDIANS = ("batch_size", "trials", "steps", "samples", "search_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--memory", type=parse_bytes, default=parse_bytes("600MiB"), help="such as 600MiB")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    options = parser.parse_args()
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    report = {"memory_bytes": options.memory, "environment": environment(), "answers": {}} | saved
    for name in options.workload:
        answers = report["answers"].setdefault(name, {method: [] for method in METHODS})
        for run in range(options.runs):
            for method in METHODS:
                if len(answers[method]) <= run:
                    answers[method].append(processes.answer(method, name, options.memory))
                    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
        for method in METHODS:
            print(name, method, medians(answers[method]), flush=True)


def medians(answers: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each figure over the runs that came to an answer."""
    ended = [one for one in answers if not one["crash"]]
    return {key: statistics.median(one[key] for one in ended) for key in MEDIANS} if ended else {}


if __name__ == "__main__":
    main()

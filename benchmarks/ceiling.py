"""Measures memory ceilings: the largest batch size that survives, and what autobatch and its peers answer.

    python benchmarks/ceiling.py [--workload NAME ...] [--method NAME ...] [--runs COUNT] [--truth-only]
    python benchmarks/ceiling.py --rescore     # the table of results/ceiling.json, nothing run

Needs Linux, and the peers of README.md. All processes have one thread and the same limit, set by RLIMIT_DATA:
so much memory above what they hold after the imports, the data set, the model and a warm-up.

answers    of each method, each in a process of its own, one at a time: their time counts
survival   in how many of 20 fresh processes ten training steps and an evaluation survive at each answer
truth      the largest size, to 1%, at which 20 of 20 fresh processes survive these; median over repetitions

Every outcome is saved as it comes: a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ceilings import processes, table, truth
from ceilings.store import JUDGEMENT, Store, Workload

import autobatch
from autobatch.devices import host
from autobatch.records.formatting import parse_bytes

RESULTS = Path(__file__).parent / "results" / "ceiling.json"
WORKLOADS = ("cnn", "transformer", "wide_mlp", "ghost_batchnorm", "variable_rnn")
METHODS = (
    processes.TOOL,
    "lightning_power",
    "lightning_binsearch",
    "accelerate",
    "accelerate_8192",
    "batch_finder",
)
PACKAGES = ("torch", "lightning", "accelerate", "batch-finder", "numpy")
REPETITIONS, RUNS, PROCESSES = 5, 5, 20
QUICK_REPETITIONS, QUICK_RUNS, QUICK_PROCESSES = 1, 1, 5
# An answer at which that many processes died, and none survived, is not asked about further.
HOPELESS = 5


def main() -> None:
    options = _options()
    if options.rescore:
        print(table.render(Store(options.results)))
        return
    settings = {"memory_bytes": options.memory, "processes": options.processes}
    store = Store(options.results, settings)
    store.note_environment(environment())
    of_all = [
        Measurement(store, store.workload(name), options.memory, options.processes, options.jobs)
        for name in options.workload
    ]
    # The truths take the longest: what is cut short has the answers and who survives at them.
    if not options.truth_only:
        for measurement in of_all:
            measurement.ask(options.method, options.runs)
        for measurement in of_all:
            measurement.judge_answers()
    for measurement in of_all:
        measurement.find_truths(options.repetitions)
    print(table.render(store))


class Measurement:
    """All that is measured of one workload, each outcome saved as it comes."""

    def __init__(self, store: Store, workload: Workload, memory_bytes: int, of: int, jobs: int) -> None:
        """`of`: processes that have to survive a size; `jobs`: how many of them run at once."""
        self._store = store
        self._workload = workload
        self._memory_bytes = memory_bytes
        self._of = of
        self._jobs = jobs

    def find_truths(self, repetitions: int) -> None:
        """The ceiling, found anew in each repetition; a later one only begins at the one before."""
        before: int | None = None
        for repetition in range(repetitions):
            found = self._workload.truth_of(repetition)
            if found is None:
                found = truth.find_ceiling(self._survives_in(str(repetition)), self._of, before)
                self._workload.keep_truth(repetition, found)
                self._store.save()
                self._say(f"truth {found}, repetition {repetition + 1} of {repetitions}")
            before = found or None

    def ask(self, methods: Sequence[str], runs: int) -> None:
        for method in methods:
            answers = self._workload.answers(method)
            while len(answers) < runs:
                answers.append(processes.answer(method, self._workload.name, self._memory_bytes))
                self._store.save()
                said = answers[-1]
                self._say(
                    f"{method} answers {said['batch_size']}, {said['steps']} steps, "
                    f"{said['wall_seconds']} s {said['crash']}"
                )

    def judge_answers(self) -> None:
        """Asks all processes about each answer, however many die, unless it is hopeless."""
        for size in self._workload.distinct_sizes():
            judged = self._workload.judged(size)
            hopeless = judged["of"] >= HOPELESS and not judged["survived"]
            if judged["of"] >= self._of or hopeless:
                continue
            self._run(JUDGEMENT, size, min(HOPELESS, self._of), stop_at_death=False)
            if judged["survived"]:
                self._run(JUDGEMENT, size, self._of, stop_at_death=False)
            self._say(f"{size}: {judged['survived']} of {judged['of']} survived")

    def _survives_in(self, series: str) -> truth.Survives:
        """The question that the search for the truth asks; what is known from before is not run again."""

        def survives(size: int, of: int) -> bool:
            known = self._workload.outcomes(series, size)
            if known["survived"] == known["of"] < of:
                self._run(series, size, of, stop_at_death=True)
                self._say(f"{size}: {known['survived']} of {known['of']} survived")
            return bool(known["survived"] == known["of"])

        return survives

    def _run(self, series: str, size: int, of: int, *, stop_at_death: bool) -> None:
        """Runs fresh processes until `of` outcomes of a size are known, or one dies."""
        known = self._workload.outcomes(series, size)
        missing = of - known["of"]
        outcomes = processes.survivals(self._workload.name, size, self._memory_bytes, missing, self._jobs)
        for outcome in outcomes:
            known["of"] += 1
            known["survived"] += outcome["survived"]
            if not outcome["survived"]:
                errors = known["errors"]
                errors[outcome["error"]] = errors.get(outcome["error"], 0) + 1
            self._store.save()
            if stop_at_death and not outcome["survived"]:
                return

    def _say(self, text: str) -> None:
        print(f"{datetime.now(timezone.utc):%H:%M:%S} {self._workload.name}: {text}", flush=True)


def environment() -> dict[str, object]:
    """With what and when something was measured."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "autobatch": autobatch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "cpu": host.cpu_name(),
        "load_average": os.getloadavg()[0],
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--memory", type=parse_bytes, default=parse_bytes("600MiB"), help="such as 600MiB")
    parser.add_argument("--repetitions", type=int, help=f"of the truth, {REPETITIONS} if not given")
    parser.add_argument("--runs", type=int, help=f"of each method, {RUNS} if not given")
    parser.add_argument("--processes", type=int, help=f"that must survive a size, {PROCESSES} if not given")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes of survivals at once"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, runs and processes")
    parser.add_argument("--truth-only", action="store_true")
    parser.add_argument("--rescore", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    quick = options.quick
    options.repetitions = options.repetitions or (QUICK_REPETITIONS if quick else REPETITIONS)
    options.runs = options.runs or (QUICK_RUNS if quick else RUNS)
    options.processes = options.processes or (QUICK_PROCESSES if quick else PROCESSES)
    return options


if __name__ == "__main__":
    main()

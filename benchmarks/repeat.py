"""Ask autobatch the same question repeatedly, and measure how far the answers differ.

    python benchmarks/repeat.py [TARGET ...] [--runs COUNT] [--load PROCESSES] [--budget SECONDS]

Runs `autobatch probe` on each example, always with the same seed, so that only the machine's state differs.
Each answer comes from a separate process. `--load` keeps this many other processes busy meanwhile. Writes
results/repeat.json, with an entry for each target, load and budget. The aim: 95% of the answers within a
factor of two of their median.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from statistics import median_low
from typing import Any

from regret import environment

RESULTS = Path(__file__).parent / "results" / "repeat.json"
EXAMPLES = ("digits_cnn", "charlm", "keras_beginner", "lightning_digits", "hf_text")
SEED = 0
# Multiplies matrices that are larger than the caches, so that it keeps processors and memory bus busy.
_BUSY = "import torch; torch.set_num_threads(1); a = torch.ones(1024, 1024)\nwhile True: a @ a"


def main() -> None:
    options = _options()
    entries: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for target in options.target:
        question = {"target": target, "load": options.load, "budget_seconds": options.budget, "seed": SEED}
        entries = [entry for entry in entries if any(entry.get(name) != question[name] for name in question)]
        begun = datetime.now(timezone.utc)
        answers: list[dict[str, object]] = []
        with _load(options.load):
            for _ in range(options.runs):
                answers.append(ask(target, options.budget))
                print(target, json.dumps(answers[-1]), flush=True)
                entry = {**question, **agreement(answers), "environment": environment(begun)}
                RESULTS.write_text(json.dumps([*entries, entry | {"answers": answers}], indent=1) + "\n")
        entries.append(entry | {"answers": answers})
        print(target, json.dumps(agreement(answers)), flush=True)


def ask(target: str, budget_seconds: float | None) -> dict[str, object]:
    """An answer of autobatch, with the check behind it."""
    command = [sys.executable, "-m", "autobatch", "probe", target, "--device", "cpu", "--fresh", "--json"]
    command += ["--seed", str(SEED)]
    command += [] if budget_seconds is None else ["--budget", str(budget_seconds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    reply = json.loads(ended.stdout)
    if not reply["ok"]:
        raise SystemExit(f"{target}: {reply['error']['message']}")
    check = reply["check"] or {}
    return {
        "batch_size": reply["batch_size"],
        "learning_rate": reply["learning_rate"],
        "critical_batch_size": check.get("critical_batch_size"),
        "interval": check.get("interval"),
        "status": check.get("status", ""),
        "find_seconds": reply["environment"]["elapsed_seconds"],
    }


def agreement(answers: Sequence[dict[str, object]]) -> dict[str, object]:
    """The median answer, the share of answers near it, and the share of pairs near each other."""
    sizes = [int(str(answer["batch_size"])) for answer in answers]
    middle = median_low(sizes)
    pairs = list(combinations(sizes, 2))
    return {
        "median": middle,
        "same_as_median": sum(size == middle for size in sizes) / len(sizes),
        "within_factor_2_of_median": _share([(size, middle) for size in sizes]),
        "pairs_within_factor_2": _share(pairs) if pairs else None,
        "counts": {size: sizes.count(size) for size in sorted(set(sizes))},
    }


def _share(pairs: Sequence[tuple[int, int]]) -> float:
    return sum(max(pair) <= 2 * min(pair) for pair in pairs) / len(pairs)


@contextmanager
def _load(processes: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    examples = [f"autobatch.examples.{name}" for name in EXAMPLES]
    parser.add_argument("target", nargs="*", default=examples)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--load", type=int, default=0, help="processes that keep the machine busy")
    parser.add_argument("--budget", type=float, help="seconds of each question; the tool's own if not given")
    return parser.parse_args()


if __name__ == "__main__":
    main()

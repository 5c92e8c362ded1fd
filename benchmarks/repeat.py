"""Asks the tool the same question again and again: how far its answers differ.

    python benchmarks/repeat.py [--runs COUNT]

`autobatch.find` on the digits CNN of the examples, each time with the same seed, so that only the machine
differs. Writes results/repeat.json. The aim: 95% of the answers within a factor of two of their median.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import median_low

from regret import environment

import autobatch
from autobatch.examples import digits_cnn

RESULTS = Path(__file__).parent / "results" / "repeat.json"
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    begun = datetime.now(UTC)
    answers: list[dict[str, object]] = []
    for _ in range(options.runs):
        answers.append(ask())
        print(json.dumps(answers[-1]), flush=True)
        document = {"environment": environment(begun), "seed": SEED, **agreement(answers), "answers": answers}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(agreement(answers)))


def ask() -> dict[str, object]:
    """One answer of the tool, with what it rests on."""
    found = autobatch.find(
        digits_cnn.build_model,
        digits_cnn.build_dataset(),
        loss_fn=digits_cnn.loss_fn,
        optimizer=digits_cnn.make_optimizer,
        val_dataset=digits_cnn.build_val_dataset(),
        batch_size=digits_cnn.batch_size,
        limits=autobatch.Limits(seed=SEED),
        fresh=True,
    )
    return {
        "batch_size": found.batch_size,
        "learning_rate": found.learning_rate,
        "critical_batch_size": found.check.critical_batch_size if found.check else None,
        "interval": found.check.interval if found.check else None,
        "status": str(found.check.status) if found.check else "",
        "find_seconds": found.environment.elapsed_seconds if found.environment else math.nan,
    }


def agreement(answers: Sequence[dict[str, object]]) -> dict[str, object]:
    """The median answer, and the shares of answers near it and of pairs of answers near each other."""
    sizes = [int(str(answer["batch_size"])) for answer in answers]
    middle = median_low(sizes)
    pairs = list(combinations(sizes, 2))
    return {
        "median": middle,
        "within_factor_2_of_median": _share([(size, middle) for size in sizes]),
        "pairs_within_factor_2": _share(pairs) if pairs else None,
        "counts": {size: sizes.count(size) for size in sorted(set(sizes))},
    }


def _share(pairs: Sequence[tuple[int, int]]) -> float:
    return sum(max(pair) <= 2 * min(pair) for pair in pairs) / len(pairs)


if __name__ == "__main__":
    main()

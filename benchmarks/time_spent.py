"""Measure the time of `autobatch probe` by part: worker starts, tries, rounds, noise, trainings, the rest.

    python benchmarks/time_spent.py [TARGET] [--runs 5] [--results FILE]

Each run is a separate process, timed from the start of its interpreter. Seconds are the parent's, each
counted once: a call of an engine inside another call counts for the inner call only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import psutil

TARGET = "autobatch.examples.digits_cnn"
RESULTS = Path(__file__).parent / "results" / "time_spent.json"
# The purpose of each call of an engine; `renew` waits for a session to end.
PARTS = {
    "open": "start of workers and sessions",
    "take_fingerprint": "fingerprint",
    "renew": "end of sessions",
    "close": "end of the worker",
    "trace_memory": "trace of a step",
    "try_out": "tries",
    "time_round": "timing rounds",
    "time_loader": "loading",
    "measure_loss_kind": "kind of loss",
    "measure_noise": "gradient noise",
    "train": "short trainings",
}
BEFORE = "interpreter and imports"
REST = "decisions and waiting"


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(_spent(options.target)))
        return
    runs = [_run(options.target) for _ in range(options.runs)]
    parts = [BEFORE, *PARTS.values(), REST]
    seconds_by_part = {part: round(median(run.get(part, 0.0) for run in runs), 3) for part in parts}
    total = median(sum(run.values()) for run in runs)
    for part, seconds in seconds_by_part.items():
        print(f"{part:<32} {seconds:7.2f} s {seconds / total:6.1%}")
    print(f"{'together':<32} {total:7.2f} s")
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "target": options.target,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "seconds": seconds_by_part,
        "together_seconds": round(total, 3),
        "runs": runs,
    }
    options.results.write_text(json.dumps(document, indent=1) + "\n")


def _run(target: str) -> dict[str, float]:
    command = [sys.executable, __file__, target, "--child"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    spent: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return spent


def _spent(target: str) -> dict[str, float]:
    """Seconds by part of a probe in this process."""
    from autobatch import api
    from autobatch.engines import messages
    from autobatch.engines.local import LocalEngine
    from autobatch.records.limits import Limits

    started_at = psutil.Process().create_time()
    spent: dict[str, float] = defaultdict(float)
    spent[BEFORE] = time.time() - started_at
    begin = time.monotonic()
    engine = _timed(LocalEngine, spent)
    recipe = messages.Recipe(target=target)
    api.probe(recipe, Limits(), fresh=True, on_output=lambda line: None, make_engine=engine)
    spent[REST] = time.monotonic() - begin - sum(spent[part] for part in PARTS.values())
    return {part: round(seconds, 3) for part, seconds in spent.items()}


def _timed(engine: type[Any], spent: dict[str, float]) -> type[Any]:
    """The engine's class with its calls timed."""
    inner: list[float] = []

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = time.monotonic()
            inner.append(0.0)
            try:
                return call(*args, **kwargs)
            finally:
                took = time.monotonic() - begin
                spent[PARTS[name]] += took - inner.pop()
                if inner:
                    inner[-1] += took

        return run

    return type("TimedEngine", (engine,), {name: timed(name, getattr(engine, name)) for name in PARTS})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", default=TARGET)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

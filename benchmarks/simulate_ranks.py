"""Simulate a probe on 1 to 4,096 ranks: the cost of agreement, and the effect of slow or failing ranks.

    python benchmarks/simulate_ranks.py [--most 4096] [--results FILE]

The leader, the members, their messages and the merging are autobatch's code, and so are the climb, the check
and the recommender. Devices, sessions and the store between them are simulated (tests/simulated_ranks.py),
with a clock that needs no waiting. The cost of a message is measured first, on torch's store in this machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from autobatch.decision.constants import PROBE_SHARE
from autobatch.decision.recommender import recommend
from autobatch.engines.ranks.transport import poll_seconds
from autobatch.measurement.budget import Budget
from autobatch.measurement.check import GeneralizationCheck
from autobatch.measurement.climb import Climb
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from tests.simulated import MIB, Machine
from tests.simulated_ranks import Network, ranked

RESULTS = Path(__file__).parent / "results" / "simulate_ranks.json"
# Assumed: half a millisecond between machines, a second for a session with its process group.
LATENCY_SECONDS = 0.0005
JOIN_SECONDS = 1.0
MESSAGE_BYTES = 400
RANKS = (1, 16, 256, 4096)
LIMITS = Limits(budget_seconds=60.0)
# Of all ranks together, in samples.
CRITICAL = 20_000.0


@dataclass(frozen=True)
class Fleet:
    """The differences between ranks. `spread`: of the logarithm of their speed. `slow`: the share of ranks at
    half the speed.

    `less_memory`: the largest share of memory that a rank lacks. `crashes`: the share of ranks that die once
    in the search. `lost`: a rank stops answering from its fifth order on.
    """

    name: str
    spread: float = 0.0
    slow: float = 0.0
    less_memory: float = 0.0
    crashes: float = 0.0
    lost: bool = False


FLEETS = (
    Fleet("alike"),
    Fleet("unequal memory", less_memory=0.2),
    Fleet("all of these", spread=0.05, slow=0.01, less_memory=0.2, crashes=0.001),
    Fleet("a rank is lost", lost=True),
)


def main() -> None:
    options = _options()
    costs = _message_costs()
    print(f"measured: a message takes the store {1e6 * costs:.0f} µs; all times below are simulated\n")
    titles = ("fleet", "ranks", "orders", "messages", "probe s", "agreeing s", "share", "ceiling", "crashed")
    print("".join(f"{title:>12}" if title != "fleet" else f"{title:<16}" for title in titles))
    rows = []
    for fleet in FLEETS:
        for ranks in [ranks for ranks in RANKS if ranks <= options.most]:
            row = _row(fleet, ranks, costs)
            rows.append(row)
            print(_shown(row), flush=True)
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "measured": {"store_seconds": costs, "message_bytes": MESSAGE_BYTES},
        "assumed": {"latency_seconds": LATENCY_SECONDS, "join_seconds": JOIN_SECONDS},
        "fleets": [asdict(fleet) for fleet in FLEETS],
        "simulated": rows,
    }
    options.results.write_text(json.dumps(document, indent=1) + "\n")


def _row(fleet: Fleet, ranks: int, store_seconds: float) -> dict[str, Any]:
    """A probe with its check, as the leader sees it."""
    machines = _machines(fleet, ranks)
    network = Network(LATENCY_SECONDS, store_seconds, poll_seconds(ranks))
    engine, store, _ = ranked(machines, LIMITS, network, JOIN_SECONDS)
    if fleet.lost and ranks > 1:
        store.silent[ranks - 1], store.noticed = 5, True
    # A trial collects the garbage of its rank; here the garbage of all ranks would take the time.
    gc.collect()
    gc.freeze()
    begin = time.process_time()
    row: dict[str, Any] = {"fleet": fleet.name, "ranks": ranks, "outcome": "answer"}
    try:
        budget = Budget.of(LIMITS, engine)
        curve = Climb(engine, LIMITS, budget=budget.stage(PROBE_SHARE)).run()
        check = GeneralizationCheck(engine, curve, LIMITS, budget).run()
        recommendation = recommend(curve, check, LIMITS)
        row |= {"batch_size": recommendation.batch_size, "ceiling": recommendation.ceiling.batch_size}
        row["critical_batch_size"] = check.critical_batch_size
        row["crashed"] = sum(trial.outcome is Outcome.CRASHED for trial in curve.trials)
    except AutobatchError as error:
        row["outcome"] = error.code
    return row | {
        "smallest_ceiling": min(machine.true_ceiling for machine in machines),
        "orders": store.orders,
        "messages": store.messages,
        "probe_seconds": round(store.now_seconds, 3),
        "agreeing_seconds": round(store.agreeing_seconds, 3),
        "busy_seconds": round(engine.busy_seconds, 3),
        "computed_seconds": round(time.process_time() - begin, 2),
    }


def _machines(fleet: Fleet, ranks: int) -> list[Machine]:
    chance = random.Random(f"{fleet.name} {ranks}")
    usual = Machine(
        total_bytes=16384 * MIB,
        sample_bytes=16 * MIB,
        dataset_size=1 << 24,
        current_batch_size=32,
        noise=0.02,
        noise_scale=CRITICAL / 2,
        critical_batch_size=CRITICAL / ranks,
        step_seconds=_steps(1.0),
    )
    return [
        replace(
            usual,
            seed=rank,
            step_seconds=_steps(_slowness(fleet, chance)),
            total_bytes=int(usual.total_bytes * (1 - fleet.less_memory * chance.random() ** 2)),
            crashes={1 << chance.randrange(10): 1} if chance.random() < fleet.crashes else {},
        )
        for rank in range(ranks)
    ]


def _slowness(fleet: Fleet, chance: random.Random) -> float:
    return chance.lognormvariate(0.0, fleet.spread) * (2.0 if chance.random() < fleet.slow else 1.0)


def _steps(slowness: float) -> Callable[[int], float]:
    return lambda size: slowness * (0.02 + 0.0005 * size)


def _message_costs() -> float:
    """Seconds of torch's store for a message from another process, averaged over many messages."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return float(pool.apply(_flood, (store.port,)))


def _flood(port: int) -> float:
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=30))
    keys = [f"key/{number}" for number in range(4096)]
    begin = time.perf_counter()
    for key in keys:
        store.set(key, "x" * MESSAGE_BYTES)
    store.multi_get(keys)
    return (time.perf_counter() - begin) / (2 * len(keys))


def _shown(row: dict[str, Any]) -> str:
    share = row["agreeing_seconds"] / row["probe_seconds"] if row["probe_seconds"] else 0.0
    ceiling = f"{row['ceiling']}/{row['smallest_ceiling']}" if "ceiling" in row else row["outcome"]
    figures = (
        f"{row['ranks']:,}",
        f"{row['orders']:,}",
        f"{row['messages']:,}",
        f"{row['probe_seconds']:.1f}",
        f"{row['agreeing_seconds']:.1f}",
        f"{share:.0%}",
        ceiling,
        str(row.get("crashed", "")),
    )
    return f"{row['fleet']:<16}" + "".join(f"{figure:>12}" for figure in figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=4096)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

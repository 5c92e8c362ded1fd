"""Replay climbs on simulated machines: their time, the regret of the size by them, and their confidences.

    python benchmarks/climb_replay.py [--zeus FOLDER] [--repeats 3] [--save FILE]

The simulated device of the tests has the step times of a model t = a + b B, with and without a cliff of 30%
at 128 samples, or those of the Zeus traces (benchmarks/README.md), scaled to steps of 0.3 s at most. Step
times have noise and a drift of 2, 10 or 30%, with bursts of twice the time or without. A climb begins at a
current size of 32 with a budget of 60 s. Then the fastest size that may be safe is decided for, where sizes
up to 1, 2, 4, 8 and 64 times the current one are. Regret is the time per sample there over that at the
fastest safe size, measured or not. A decision is right as `decision/confidence.py` defines it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, quantiles

sys.path.insert(0, str(Path(__file__).parent.parent))

import zeus_replay

from autobatch.decision.confidence import decide, measured_speedups
from autobatch.decision.same_epochs import HarmEstimate
from autobatch.decision.trial_set import TrialSet
from autobatch.measurement.budget import Budget
from autobatch.measurement.climb import Climb
from autobatch.records.limits import Limits
from autobatch.records.recommendation import Action
from tests.simulated import MIB, Machine, SimulatedBackend, SimulatedEngine

StepSeconds = Callable[[int], float]

CURRENT = 32
BUDGET_SECONDS = 60.0
# The climb's share of it, as in `measurement/pipeline.py`.
CLIMB_SHARE = 0.65
NOISES = (0.02, 0.1, 0.3)
SAFE_MULTIPLES = (1, 2, 4, 8, 64)
LARGEST = 4096 - 64
# Name: seconds per step, and per sample.
LINES = {
    "small": (1e-3, 3.5e-5),
    "digits": (5e-3, 6e-5),
    "convolutions": (2e-3, 5e-4),
    "large": (2e-2, 1e-3),
    "launches": (8e-3, 1e-5),
    "heavy": (3e-2, 2e-2),
}


@dataclass
class Figures:
    """What a group of climbs cost, and how good their decisions were."""

    seconds: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    tries: list[int] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)
    slower: list[bool] = field(default_factory=list)
    decisions: list[tuple[float, bool]] = field(default_factory=list)

    def summary(self) -> dict[str, float | int | None]:
        sure = [right for confidence, right in self.decisions if confidence >= 0.9]
        return {
            "seconds_mean": round(fmean(self.seconds), 2),
            "seconds_median": round(median(self.seconds), 2),
            "rounds": round(fmean(self.rounds), 1),
            "tries": round(fmean(self.tries), 1),
            "regret_mean": round(fmean(self.regrets), 4),
            "regret_p95": round(quantiles(self.regrets, n=20)[-1], 3),
            "regret_worst": round(max(self.regrets), 3),
            "slower_than_current": round(fmean(self.slower), 4),
            "sure_decisions": len(sure),
            "sure_and_right": round(fmean(sure), 3) if sure else None,
        }


class BusyBackend(SimulatedBackend):
    """A device whose speed drifts over seconds and halves in bursts."""

    def __init__(self, machine: Machine, sd: float, seed: int, *, bursts: bool) -> None:
        super().__init__(machine)
        self._sd = sd
        self._noise = random.Random(seed)
        self._drift = self._last = 0.0
        self._bursts = list(self._drawn_bursts()) if bursts else []

    def _drawn_bursts(self) -> Iterator[tuple[float, float]]:
        end = 0.0
        while end < 10 * BUDGET_SECONDS:
            begin = end + self._noise.expovariate(1 / 10)
            end = begin + self._noise.expovariate(1.0)
            yield begin, end

    def run(self, size: int) -> None:
        kept = math.exp((self._last - self._clock) / 3.0)
        self._last = begin = self._clock
        self._drift = kept * self._drift + self._noise.gauss(0, self._sd / 2) * math.sqrt(1 - kept**2)
        in_burst = any(start < begin < end for start, end in self._bursts)
        super().run(size)
        factor = math.exp(self._drift + self._noise.gauss(0, self._sd)) * (2.0 if in_burst else 1.0)
        self._clock = begin + (self._clock - begin) * factor


def main() -> None:
    options = _options()
    # Collecting takes longer than all simulated steps.
    gc.disable()
    gc.collect = lambda generation=2: 0
    groups: dict[str, Figures] = {}
    for name, step_seconds in curves(options.zeus):
        for noise in NOISES:
            for bursts in (False, True):
                for seed in range(options.repeats):
                    names = ["all", f"noise {noise:.0%}", "bursts" if bursts else "no bursts", name]
                    figures = [groups.setdefault(group, Figures()) for group in names]
                    replay(step_seconds, noise, 7 * seed + 1, figures, bursts=bursts)
    table = {name: figures.summary() for name, figures in groups.items()}
    for name, row in table.items():
        print(f"{name:26}", *(f"{key} {value}" for key, value in row.items()))
    if options.save:
        today = datetime.now(timezone.utc).date().isoformat()
        options.save.write_text(
            json.dumps({"date": today, "repeats": options.repeats, "groups": table}, indent=1) + "\n"
        )


def curves(zeus: Path | None) -> Iterator[tuple[str, StepSeconds]]:
    """The seconds per step of each simulated machine."""
    for name, (fixed_seconds, sample_seconds) in LINES.items():
        yield name, _line(fixed_seconds, sample_seconds, cliff=1.0)
        yield f"{name}, cliff", _line(fixed_seconds, sample_seconds, cliff=1.3)
    if zeus is None:
        return
    for gpu in zeus_replay.GPUS:
        for task in zeus_replay.TASKS:
            epochs = zeus_replay.seconds_per_epoch(zeus, gpu, task)
            points = sorted((size, seconds * size / task.samples) for size, seconds in epochs.items())
            yield f"{gpu} {task.name}", _interpolated(points)


def _line(fixed_seconds: float, sample_seconds: float, cliff: float) -> StepSeconds:
    return lambda size: (fixed_seconds + sample_seconds * size) * (cliff if size >= 128 else 1.0)


def _interpolated(points: list[tuple[int, float]]) -> StepSeconds:
    """Step times linear over logarithms between the points, with the last throughput beyond them."""
    scale = min(1.0, 0.3 / max(seconds for _, seconds in points))

    def step_seconds(size: int) -> float:
        if size <= points[0][0]:
            return scale * points[0][1]
        for (left, low), (right, high) in pairwise(points):
            if size <= right:
                share = math.log(size / left) / math.log(right / left)
                return float(scale * low ** (1 - share) * high**share)
        last, seconds = points[-1]
        return scale * seconds * size / last

    return step_seconds


def replay(
    step_seconds: StepSeconds, noise: float, seed: int, figures: list[Figures], *, bursts: bool
) -> None:
    """One climb, whose figures are added to each of the groups."""
    machine = Machine(
        step_seconds=step_seconds,
        dataset_size=50_000,
        current_batch_size=CURRENT,
        total_bytes=4096 * MIB,
        sample_bytes=MIB,
        seed=seed,
    )
    engine = SimulatedEngine(machine)
    engine._backend = BusyBackend(machine, noise, seed, bursts=bursts)
    limits = Limits(budget_seconds=BUDGET_SECONDS)
    curve = Climb(engine, limits, None, Budget.of(limits, engine).stage(CLIMB_SHARE)).run()
    trial_set = TrialSet.of(curve)
    assert trial_set.step_time is not None
    speedups = measured_speedups(trial_set.latest[CURRENT], trial_set.timed, trial_set.step_time)
    for each in figures:
        each.seconds.append(engine.busy_seconds)
        each.rounds.append(len(engine.rounds))
        each.tries.append(len(engine.tries))
    for multiple in SAFE_MULTIPLES:
        harms = {
            size: HarmEstimate(log_harm=0.0 if size <= multiple * CURRENT else math.inf, sd=0.0)
            for size in speedups
        }
        decision = decide(CURRENT, speedups, harms)
        safe = [size for k in range(13) if CURRENT <= (size := 1 << k) <= min(multiple * CURRENT, LARGEST)]
        per_sample = {size: step_seconds(size) / size for size in safe}
        chosen = step_seconds(decision.batch_size) / decision.batch_size
        best = min(chosen, *per_sample.values(), math.inf)
        is_change = decision.action is Action.CHANGE
        right = per_sample[CURRENT] / (chosen if is_change else best) >= 1.05
        for each in figures:
            each.regrets.append(chosen / best)
            each.slower.append(chosen > per_sample[CURRENT])
            if multiple > 1:
                each.decisions.append((decision.confidence, right is is_change))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zeus", type=Path, help="folder with the traces")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Replay the law of the critical batch size on recorded trainings of MLPerf: its error, interval and choice.

    python benchmarks/mlperf_replay.py --data FOLDER [--save FILE]

FOLDER holds `epochs_to_target.csv`: the epochs to the quality target of each seeded run, by benchmark and
batch size (see benchmarks/README.md). The trainings have learning rates that were tuned for each size.

predictions   the epochs at each batch size (median of its runs) from those at all other sizes, by
              `critical_batch.posterior` from a flat prior, and their interval by
              `critical_batch.prediction_interval`. The error of the law that it assumes is also fitted to
              each half of the benchmarks by maximum likelihood; its coverage is that of the other half.
choices       `critical_batch.pick` with the belief from one half of each size's runs, on hardware with
              t(B) = a + b B. Regret is the time at the choice over that at the best size, both by the medians
              of the other half of the runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import autobatch
from autobatch.decision import critical_batch
from autobatch.decision.constants import TOLERANCE
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.quantiles import Z_TWO_SIDED
from autobatch.decision.step_time import fit_step_time

# Epochs to the target of each run, by batch size. The unit differs between benchmarks.
Runs = Mapping[int, Sequence[float]]

PROFILES = (
    "a quarter of the smallest",
    "the smallest",
    "the middle",
    "the largest",
    "four times the largest",
)


@dataclass(frozen=True)
class Prediction:
    """The epochs at a size from those at the others, as ln of ratios to the truth.

    `error`: ln(truth / prediction). `down` and `up`: the distances to the ends of the interval that the
    critical batch size alone gives.
    """

    benchmark: str
    batch_size: int
    error: float
    down: float
    up: float
    interval: tuple[float, float]

    @property
    def is_covered(self) -> bool:
        """Whether the interval of the product holds the truth."""
        return self.interval[0] <= 1 <= self.interval[1]

    def is_within(self, law_sd: float) -> bool:
        """Whether the interval holds the truth with another error of the law."""
        half = Z_TWO_SIDED * law_sd
        return -math.hypot(self.down, half) <= self.error <= math.hypot(self.up, half)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the recorded runs")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = replay(read_runs(options.data / "epochs_to_target.csv"))
    print(json.dumps(figures, indent=1))
    if options.save:
        versions = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "autobatch": autobatch.__version__,
            "python": platform.python_version(),
        }
        options.save.write_text(json.dumps(versions | figures, indent=1) + "\n")


def read_runs(path: Path) -> dict[str, dict[int, list[float]]]:
    """The runs of each benchmark."""
    runs: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            runs[row["benchmark"]][int(row["batch_size"])].append(float(row["epochs_to_target"]))
    return {benchmark: dict(runs[benchmark]) for benchmark in sorted(runs)}


def replay(runs: Mapping[str, Runs]) -> dict[str, Any]:
    """All figures: of the predictions, by half of the benchmarks, and of the choices."""
    by_benchmark = {name: predictions(name, by_size) for name, by_size in runs.items()}
    halves = [list(runs)[::2], list(runs)[1::2]]
    of_halves = [[each for name in half for each in by_benchmark[name]] for half in halves]
    every = [each for half in of_halves for each in half]
    errors = [abs(each.error) for each in every]
    regrets = {name: choice_regrets(by_size) for name, by_size in runs.items()}
    of_profiles = {profile: [each[profile] for each in regrets.values()] for profile in PROFILES}
    return {
        "predictions": len(every),
        "median_error": median(errors),
        "error_at_p90": quantiles(errors, n=10)[-1],
        "coverage": fmean(each.is_covered for each in every),
        "coverage_by_critical_batch_size_alone": fmean(each.is_within(0.0) for each in every),
        "law_sd": TOLERANCE,
        "halves": [
            {
                "fitted_on": half,
                "law_sd": (law_sd := fitted_law_sd(fitted)),
                "coverage_there": fmean(each.is_within(law_sd) for each in fitted),
                "coverage_of_the_others": fmean(each.is_within(law_sd) for each in others),
                "coverage_of_the_others_by_the_product": fmean(each.is_covered for each in others),
            }
            for half, fitted, others in zip(halves, of_halves, reversed(of_halves), strict=True)
        ],
        "benchmarks": {
            name: {
                "sizes": len(each),
                "median_error": median(abs(prediction.error) for prediction in each),
                "coverage": fmean(prediction.is_covered for prediction in each),
                "regret": regrets[name],
            }
            for name, each in by_benchmark.items()
        },
        "regret": {
            "mean": fmean(fmean(values) for values in of_profiles.values()),
            "worst": max(max(values) for values in of_profiles.values()),
            **{profile: fmean(values) for profile, values in of_profiles.items()},
        },
    }


def predictions(benchmark: str, runs: Runs) -> list[Prediction]:
    """Each size predicted from the others."""
    steps = {size: median(epochs) / size for size, epochs in runs.items()}
    return [_predicted(benchmark, size, steps) for size in sorted(steps)]


def _predicted(benchmark: str, size: int, steps: Mapping[int, float]) -> Prediction:
    others = [(each, count) for each, count in sorted(steps.items()) if each != size]
    belief = critical_batch.posterior(_flat_prior([each for each, _ in others]), others)

    def log_ratio(critical: float) -> float:
        """ln(prediction / truth)."""
        minimum = fmean(math.log(count / (1 + critical / each)) for each, count in others)
        return minimum + math.log((1 + critical / size) / steps[size])

    expected = sum(
        weight * log_ratio(critical) for critical, weight in zip(belief.critical, belief.weights, strict=True)
    )
    ends = [log_ratio(critical) for critical in belief.interval]
    return Prediction(
        benchmark=benchmark,
        batch_size=size,
        error=-expected,
        down=max(expected - min(ends), 0.0),
        up=max(max(ends) - expected, 0.0),
        interval=critical_batch.prediction_interval(math.exp(expected), [math.exp(end) for end in ends]),
    )


def _flat_prior(sizes: Sequence[int]) -> CriticalBatchSize:
    centre = math.exp(fmean(map(math.log, sizes)))
    return CriticalBatchSize(batch_size=centre, low=1.0, high=1e9, log_sd=3.0)


def fitted_law_sd(fitted: Sequence[Prediction]) -> float:
    """The standard deviation of ln(truth / law) with the highest likelihood, beside that of B_crit."""

    def likelihood(law_sd: float) -> float:
        variances = [((each.down + each.up) / 2 / Z_TWO_SIDED) ** 2 + law_sd**2 for each in fitted]
        return -sum(
            math.log(variance) + each.error**2 / variance
            for each, variance in zip(fitted, variances, strict=True)
        )

    return max((step / 1000 for step in range(1, 301)), key=likelihood)


def choice_regrets(runs: Runs) -> dict[str, float]:
    """The regret of the choice by hardware profile: the mean of both halves of the runs as the judge."""
    sizes = sorted(runs)
    # a / b in samples: where the fixed cost of a step is half of it.
    ratios = (sizes[0] / 4, sizes[0], math.sqrt(sizes[0] * sizes[-1]), sizes[-1], 4 * sizes[-1])
    return {
        profile: fmean(_regret(runs, ratio, half) for half in (0, 1))
        for profile, ratio in zip(PROFILES, ratios, strict=True)
    }


def _regret(runs: Runs, hardware_batch_size: float, judging_half: int) -> float:
    sizes = sorted(runs)
    steps = [
        {size: median(runs[size][half::2]) / size for size in sizes}
        for half in (1 - judging_half, judging_half)
    ]
    belief = critical_batch.posterior(_flat_prior(sizes), list(steps[0].items()))
    law = fit_step_time(sizes, [(hardware_batch_size + size,) for size in sizes])
    times = {size: steps[1][size] * law.step_seconds_at(size) for size in sizes}
    return times[critical_batch.pick(sizes, belief, law).batch_size] / min(times.values())


if __name__ == "__main__":
    main()

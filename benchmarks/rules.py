"""What each rule of the decision is worth: the regret of recorded trainings with the rule and without it.

    python benchmarks/rules.py --data FOLDER [--repeats COUNT] [--rules NAME ...] [--save FILE]

FOLDER holds the Zeus traces (see zeus_replay.py). Measures nothing, so any machine will do.

zeus    the recommender's choice on recorded GPU trainings, as zeus_replay.py scores it
probes  simulated probes of the oracle's five tasks: steps to the target and the best learning rate by batch
        size from results/oracle.jsonl, step times from results/regret.json. Noisy rounds, an early noise
        scale, and short trainings with different seeds go through the code of the product. The whole regret
        counts the recommended learning rate as well: an octave below or above the best one costs the mean of
        what it cost the oracle, and above three times the best one a training diverges (ten times the best
        time). Without trainings (noise) and with them (train).

A rule that can be left out without a loss is a rule too many.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import zeus_replay

from autobatch.decision import critical_batch, loss_curves, next_training, step_time, time_to_loss
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.recommender import recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, CheckStatus, Evaluation, Training
from autobatch.records.device import Device
from autobatch.records.limits import Limits, Objective
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload

RESULTS = Path(__file__).parent / "results"
ROUNDS = 7
# Standard deviations of ln: of a round, as on a quiet, a usual and a busy machine.
NOISES = (0.02, 0.1, 0.3)
# An early noise scale over the later critical batch size, after the factor 2 of the product.
EARLY = (0.1, 0.6, 1.2)
PRIOR_LOG_SD = 0.9
# Of one training's steps by its seed, and of each evaluated part.
SEED_LOG_SD, PART_LOG_SD, PARTS = 0.15, 0.05, 8
# Steps by octave below and above the best learning rate, the oracle's mean; far above, it diverges.
OCTAVE_BELOW, OCTAVE_ABOVE = 1.2, 1.3
DIVERGES_ABOVE, DIVERGED_REGRET = 3.0, 10.0
CURRENT_STEPS = 250


@dataclass(frozen=True)
class World:
    """A recorded task: steps to its target, the factor of the best learning rate, and step times by size."""

    name: str
    steps: dict[int, float]
    factors: dict[int, float]
    step_seconds: dict[int, float]
    current_size: int
    optimizer: str

    @property
    def critical(self) -> float:
        """B_crit by least squares of ln steps."""
        grid = [math.exp(x / 20) for x in range(240)]

        def error(critical: float) -> float:
            logs = [math.log(steps / (1 + critical / size)) for size, steps in self.steps.items()]
            return sum((each - fmean(logs)) ** 2 for each in logs)

        return min(grid, key=error)

    def steps_at(self, size: int, factor: float) -> float | None:
        """Steps to the target with the learning rates times `factor`; None where it diverges."""
        off = factor / self.factors[size]
        if off > DIVERGES_ABOVE:
            return None
        octave = OCTAVE_BELOW if off < 1 else OCTAVE_ABOVE
        return self.steps[size] * math.pow(octave, abs(math.log2(off)))

    def regret(self, size: int, factor: float) -> tuple[float, float]:
        """Time to the target over the best: with the best learning rate at `size`, and with `factor`."""
        best = min(steps * self.step_seconds[each] for each, steps in self.steps.items())
        relative = self.step_seconds[size] / best
        steps = self.steps_at(size, factor)
        whole = DIVERGED_REGRET if steps is None else steps * relative
        return self.steps[size] * relative, whole


def worlds() -> list[World]:
    """The tasks of the oracle."""
    rates: dict[str, dict[int, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for line in (RESULTS / "oracle.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["steps"] is not None:
            by_rate = rates[row["task"]][row["batch_size"]]
            by_rate.setdefault(row["learning_rate"], []).append(row["steps"])
    made = []
    for name, task in json.loads((RESULTS / "regret.json").read_text())["tasks"].items():
        sizes = {int(size): values for size, values in task["sizes"].items()}
        best_rate = {
            size: min(rates[name][size], key=lambda rate: fmean(rates[name][size][rate])) for size in sizes
        }
        made.append(
            World(
                name=name,
                steps={size: values["steps"] for size, values in sizes.items()},
                factors={size: rate / task["own"]["learning_rate"] for size, rate in best_rate.items()},
                step_seconds={size: values["step_seconds"] for size, values in sizes.items()},
                current_size=task["own"]["batch_size"],
                optimizer="SGD" if name in ("digits_mlp", "digits_regression") else "AdamW",
            )
        )
    return made


def probe(world: World, noise: float, early: float, *, trains: bool, seed: int) -> tuple[int, float]:
    """(batch size, learning rate factor) that the product recommends after a simulated probe."""
    draws = random.Random(f"{world.name} {noise} {early} {seed}")
    curve = measured(world, noise, draws)
    centre = early * world.critical * math.exp(draws.gauss(0, 0.3))
    reach = math.exp(1.645 * PRIOR_LOG_SD)
    prior = CriticalBatchSize(batch_size=centre, low=centre / reach, high=centre * reach, log_sd=PRIOR_LOG_SD)
    check = checked(world, curve, prior, draws.random(), trains=trains)
    answer = recommend(curve, check, Limits(objective=Objective.TIME_TO_LOSS))
    return answer.batch_size, answer.learning_rate_factor or 1.0


def measured(world: World, noise: float, draws: random.Random) -> Curve:
    """Rounds of all sizes."""
    trials = []
    for size, seconds in world.step_seconds.items():
        drift = draws.gauss(0, noise / 3)
        rounds = tuple(seconds * math.exp(drift + draws.gauss(0, noise)) for _ in range(ROUNDS))
        rate = size / sorted(rounds)[ROUNDS // 2]
        trials.append(
            Trial(batch_size=size, outcome=Outcome.OK, step_seconds=rounds, samples_per_second=rate)
        )
    return Curve(
        trials=tuple(trials),
        ceiling=Ceiling(batch_size=max(world.steps), limited_by=LimitedBy.MEMORY, verified=True),
        workload=Workload(
            target=world.name,
            model="",
            parameters=1,
            loss="",
            optimizer=world.optimizer,
            batch_size=world.current_size,
            learning_rate=1.0,
        ),
        device=Device(kind="cpu", index=0, name=""),
    )


def checked(world: World, curve: Curve, prior: CriticalBatchSize, seed: float, *, trains: bool) -> Check:
    """The check as the product runs it, with simulated trainings of equal time."""
    check = Check(
        status=CheckStatus.NOISE_ONLY,
        batch_size=world.current_size,
        noise_scale=prior.batch_size / 2,
        critical_batch_size=prior.batch_size,
        interval=(prior.low, prior.high),
        log_sd=prior.log_sd,
    )
    law = TrialSet.of(curve).step_time
    assert law is not None
    power = critical_batch.learning_rate_power(world.optimizer)
    plan = next_training.TrainingPlan(
        sizes=law.sizes,
        law=law,
        prior=prior,
        reference_size=world.current_size,
        current_size=world.current_size,
        power=power,
    )
    trainings: list[Training] = []
    while trains and len(trainings) < 8 and (run := next_training.next_run(plan, trainings)):
        trainings.append(trained(world, run, random.Random(f"{seed} {run}")))
    if len({training.batch_size for training in trainings}) < 2:
        return replace(check, trainings=tuple(trainings))
    state = next_training.state_after(plan, trainings)
    return replace(
        check,
        status=CheckStatus.VETOED if state.vetoed else CheckStatus.PASSED,
        trainings=tuple(trainings),
        vetoed=state.vetoed,
        matched_loss=state.matched.loss if state.matched else None,
        critical_batch_size=state.belief.batch_size,
        interval=state.belief.interval,
        log_sd=state.belief.log_sd,
    )


def trained(world: World, run: next_training.Run, draws: random.Random) -> Training:
    """A short training: as long as the current size takes for a fixed number of steps, with noisy losses."""
    seconds = CURRENT_STEPS * world.step_seconds[world.current_size]
    made = max(12, int(seconds / world.step_seconds[run.batch_size]))
    target = world.steps_at(run.batch_size, run.learning_rate_factor)
    if target is None:
        return Training(
            batch_size=run.batch_size,
            learning_rate_factor=run.learning_rate_factor,
            outcome=Outcome.DIVERGED,
            steps=min(made, 20),
            seconds=seconds,
        )
    target *= math.exp(draws.gauss(0, SEED_LOG_SD))
    evaluations, at = [], 4
    while at <= made:
        loss = (1 + 20 * at / target) ** -0.5
        losses = tuple(loss * math.exp(draws.gauss(0, PART_LOG_SD)) for _ in range(PARTS))
        evaluations.append(Evaluation(steps=at, seconds=seconds * at / made, losses=losses))
        at = max(at + 1, math.ceil(1.2 * at))
    return Training(
        batch_size=run.batch_size,
        learning_rate_factor=run.learning_rate_factor,
        outcome=Outcome.OK,
        steps=made,
        seconds=seconds,
        evaluations=tuple(evaluations),
    )


# The rules, and the code that takes the place of each.


def cheapest(cost: Mapping[int, float], tied: Sequence[int], noise: float) -> int:
    """Without the middle: the tied size that looks best."""
    return min(tied, key=lambda size: cost[size])


def without_current(*args: Any, current_size: int | None = None, **fields: Any) -> critical_batch.Choice:
    """Without the tie to the current size."""
    return pick(*args, current_size=None, **fields)


def as_measured(residuals: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """Without the model: each size as it was measured."""
    return tuple(residuals)


def as_modelled(residuals: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """Without departures from the model."""
    return tuple(0.0 for _ in residuals)


pick = critical_batch.pick

# Name of the rule, and what to replace: (module, name, substitute).
RULES: dict[str, list[tuple[Any, str, Any]]] = {
    "all rules": [],
    "the current size wins ties": [(critical_batch, "pick", without_current)],
    "the middle of sizes that noise can't tell apart": [(critical_batch, "_central", cheapest)],
    "step times: model and measurements, not measurements alone": [(step_time, "_corrections", as_measured)],
    "step times: model and measurements, not the model alone": [(step_time, "_corrections", as_modelled)],
    "no smaller size by the noise scale alone": [(time_to_loss, "_comparable", lambda sizes, check: sizes)],
    "any training": [(next_training, "_runs", lambda plan, trainings: iter(()))],
    "a second try with half the rate": [(next_training, "_retries", lambda *args: iter(()))],
    "half the rate of a raised choice": [(next_training, "RAISED_RATE", math.inf)],
    "a fourth size": [(next_training, "MOST_TRAINED_SIZES", 3)],
    "a training only where it can save 2%": [(next_training, "RESOLUTION", 0.0)],
    "vetoes": [(next_training, "vetoes", lambda reference_size, trainings, **options: ())],
    "a loss that did not fall is worse": [(loss_curves, "RESOLUTION", -math.inf)],
    "a lower rate wins a tie of losses": [(loss_curves, "TOLERANCE", 0.0)],
    "a loss that three sizes reach, if there are as many": [(loss_curves, "MOST_TRAINED_SIZES", 3)],
    "wider smoothing of many evaluations": [(loss_curves, "_reach", lambda evaluations: 1)],
    "80% of the belief, not its middle alone": [(critical_batch, "CONFIDENCE", 0.5)],
}


@contextlib.contextmanager
def without(rule: str) -> Iterator[None]:
    """The product without a rule, for the block."""
    before = [(module, name, getattr(module, name)) for module, name, _ in RULES[rule]]
    for module, name, substitute in RULES[rule]:
        setattr(module, name, substitute)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def zeus_regrets(data: Path) -> list[float]:
    """The regret of each GPU, task and run."""
    return [
        regret
        for gpu in zeus_replay.GPUS
        for task in zeus_replay.TASKS
        for regret in zeus_replay.score(data, gpu, task)["autobatch"]
    ]


def probe_regrets(*, trains: bool, repeats: int) -> list[tuple[float, float]]:
    """Both regrets of each simulated probe; the same noise with and without a rule."""
    return [
        world.regret(*probe(world, noise, early, trains=trains, seed=seed))
        for world in worlds()
        for noise in NOISES
        for early in EARLY
        for seed in range(repeats)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the Zeus traces")
    parser.add_argument("--repeats", type=int, default=5, help="probes of each task and noise")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES), help="only these")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    columns = ("zeus", "noise", "noise, whole", "train", "train, whole")
    print(f"{'mean / worst regret without the rule':60}" + "".join(f"{name:>16}" for name in columns))
    figures: dict[str, dict[str, tuple[float, float]]] = {}
    for rule in options.rules:
        with without(rule):
            regrets = [zeus_regrets(options.data)]
            for trains in (False, True):
                regrets += map(list, zip(*probe_regrets(trains=trains, repeats=options.repeats), strict=True))
        figures[rule] = {name: (fmean(each), max(each)) for name, each in zip(columns, regrets, strict=True)}
        cells = "".join(f"{mean:9.3f} / {worst:4.1f}" for mean, worst in figures[rule].values())
        print(f"{rule:60}{cells}", flush=True)
    if options.save:
        options.save.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

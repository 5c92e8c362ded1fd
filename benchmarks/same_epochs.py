"""Replays rules for the batch size of a training of fixed epochs on recorded whole trainings.

    nice python benchmarks/recorded_trainings.py    # records what is missing, for minutes
    python benchmarks/same_epochs.py [--save]       # judges the rules; writes results/same_epochs.json

A decision is one task, one current size (half of the task's, that, and four times that), one length of the
training, and one seed. A rule sees that seed alone; the other seeds judge it:

harm      final loss at the answer over that at the current size and learning rate: geometric mean over the
          other seeds
speedup   time of the training at the current size over that at the answer, by the step times of all seeds
share     ln of the speedups over ln of those at the fastest size whose harm is at most 2% over all seeds

Harm counts as surely above a limit where it is so by more than the standard error over the seeds. Rules `with
rates` run the product's own order of trainings on the record, as far as it has the rates that are asked for:
half, all of and twice the rate of the noise rule. `from half the rate` takes half of it for the user's.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from recorded_trainings import CASES, Case, marks_of, noise_of, recorded

from autobatch.decision import critical_batch
from autobatch.decision.confidence import decide, measured_speedups
from autobatch.decision.constants import HARM_TOLERANCE
from autobatch.decision.equal_training import next_run, octaves_below
from autobatch.decision.judgement import Judgement, judge
from autobatch.decision.loss_extrapolation import LossCurve
from autobatch.decision.noise_scale import critical_batch_size
from autobatch.decision.same_epochs import (
    Course,
    HarmEstimate,
    estimate_harms,
)
from autobatch.decision.step_time import StepTimeLaw, fit_step_time
from autobatch.decision.trial_set import TrialSet
from autobatch.records.check import Check, CheckStatus, Evaluation, NoisePoint, Training
from autobatch.records.recommendation import Action, Decision
from autobatch.records.trial import Outcome, Trial

RESULTS = Path(__file__).parent / "results" / "same_epochs.json"
CURRENT_SIZES = (0.5, 1, 4)
SHARES = (0.05, 0.10, 0.25)
# A rule sees one epoch at least: ten evaluations.
LEAST_EPOCHS = 1.0
# Harms that are counted.
LIMITS = (1.05, 1.10)


@dataclass(frozen=True)
class Recorded:
    """All recorded trainings of a case with the rate of the rule, for the seeds that trained every size."""

    case: Case

    @cached_property
    def rows(self) -> dict[tuple[int, int], dict[str, Any]]:
        return {(size, seed): row for (size, rate, seed), row in self.at_rates.items() if rate == 1}

    @cached_property
    def at_rates(self) -> dict[tuple[int, float, int], dict[str, Any]]:
        return recorded(self.case.name)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that all seeds trained, ascending."""
        sizes = sorted(self.case.sizes)
        return tuple(size for size in sizes if all((size, seed) in self.rows for seed in self.seeds))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that trained all sizes, but for half of the task's size, which may lack."""
        needed = [size for size in self.case.sizes if size >= self.case.batch_size]
        seeds = sorted({seed for _, seed in self.rows})
        return tuple(s for s in seeds if all((size, s) in self.rows for size in needed))

    @cached_property
    def samples(self) -> int:
        return int(next(iter(self.rows.values()))["samples"])

    @cached_property
    def trials(self) -> dict[int, Trial]:
        """Each size with the step times of the seeds as its rounds."""
        return {
            size: Trial(
                batch_size=size,
                outcome=Outcome.OK,
                step_seconds=tuple(self.rows[size, seed]["step_seconds"] for seed in self.seeds),
            )
            for size in self.sizes
        }

    @cached_property
    def step_time(self) -> StepTimeLaw:
        return fit_step_time(self.sizes, [self.trials[size].step_seconds for size in self.sizes])

    @cache  # noqa: B019  # as many as there are cases, for the whole run
    def curve(self, size: int, seed: int, rate: float = 1.0) -> LossCurve:
        """The loss curve at `rate` times the rate of the rule."""
        row = self.at_rates[size, rate, seed]
        losses = [loss for loss in row["losses"] if loss is not None]
        steps = sorted(set(marks_of(self.samples, size, self.case.epochs[-1])))[: len(losses) - 1]
        return LossCurve(
            epochs=tuple(step * size / self.samples for step in steps),
            losses=tuple(losses[1:]),
            first_loss=losses[0],
            failed=row["losses"][-1] is None,
        )

    def noise(self, seed: int, epochs: float) -> tuple[NoisePoint, ...]:
        """The valid measurements up to `epochs`, of the training at the task's size; at least one."""
        points = [
            NoisePoint(samples_seen=at * self.samples, batch_size=scale.batch_size, low=scale.low)
            for at, scale in noise_of(self.rows[self.case.batch_size, seed])
            if scale.valid
        ]
        return tuple(p for p in points if p.samples_seen <= 1.02 * epochs * self.samples) or (points[0],)

    def has(self, size: int, rate: float) -> bool:
        """Whether all seeds were trained at this rate."""
        return all((size, rate, seed) in self.at_rates for seed in self.seeds)

    def factor(self, size: int) -> float:
        """The rule's factor of the learning rate of the case."""
        return float(self.rows[size, self.seeds[0]]["factor"])

    def training(self, size: int, seed: int, rate: float, epochs: float, unit: float) -> Training:
        """The first epochs of a recorded training; its learning rate is in units of the factor `unit`."""
        curve = self.curve(size, seed, rate)
        part = curve.until(epochs)
        ended = curve.failed and part.epochs[-1:] == curve.epochs[-1:]
        points = [(0.0, curve.first_loss), *zip(part.epochs, part.losses, strict=True)]
        step_seconds = self.step_time.step_seconds_at(size)
        evaluations = tuple(
            Evaluation(
                steps=(steps := round(at * self.samples / size)),
                seconds=steps * step_seconds,
                losses=(loss,),
            )
            for at, loss in points
            if loss is not None
        )
        return Training(
            batch_size=size,
            learning_rate_factor=rate * self.factor(size) / unit,
            outcome=Outcome.DIVERGED if ended else Outcome.OK,
            steps=evaluations[-1].steps,
            seconds=evaluations[-1].seconds,
            evaluations=evaluations,
        )

    def log_harm(
        self, current: int, size: int, epochs: float, seed: int, rates: tuple[float, float] = (1.0, 1.0)
    ) -> float:
        """ln of the final loss at a size over that at the current one; `rates` are those of both."""
        base, other = self.curve(current, seed, rates[0]), self.curve(size, seed, rates[1])
        if other.failed:
            return math.inf
        return math.log(other.until(epochs).end_loss() / base.until(epochs).end_loss())

    def log_speedup(self, current: int, size: int) -> float:
        a, b = (batch_size / self.step_time.step_seconds_at(batch_size) for batch_size in (current, size))
        return math.log(b / a)


@dataclass(frozen=True)
class Question:
    """One decision to take: the rule may look at `seed` alone."""

    recorded: Recorded
    current: int
    epochs: float
    seed: int

    @property
    def sizes(self) -> list[int]:
        return [size for size in self.recorded.sizes if size >= self.current]

    @property
    def larger(self) -> list[int]:
        return self.sizes[1:]


@dataclass(frozen=True)
class Answer:
    """`rate`: times the rule's, at the size; `user_rate`: times the rule's, at the current size."""

    decision: Decision | None
    size: int
    harms: dict[int, HarmEstimate]
    rate: float = 1.0
    user_rate: float = 1.0


# None where the record lacks the user's rate.
Rule = Callable[[Question], Answer | None]


def questions() -> Iterator[Question]:
    for case in CASES:
        of_case = Recorded(case)
        if len(of_case.seeds) < 2:
            continue
        sizes = [round(factor * case.batch_size) for factor in CURRENT_SIZES]
        for size, epochs, seed in product(sizes, case.epochs, of_case.seeds):
            if size in of_case.sizes:
                yield Question(of_case, size, epochs, seed)


def autobatch(share: float, *, epochs_known: bool = True, compared: bool = False) -> Rule:
    """The product's rule after a share of the training at the current size.

    `epochs_known`: the rule is given the user's epochs. `compared`: all larger sizes were trained for as many
    epochs too.
    """

    def rule(question: Question) -> Answer:
        of_case, seed = question.recorded, question.seed
        run = min(question.epochs, max(LEAST_EPOCHS, share * question.epochs))
        course = Course(
            current_size=question.current,
            samples=of_case.samples,
            epochs=question.epochs if epochs_known else None,
            curve=of_case.curve(question.current, seed).until(run),
            noise=of_case.noise(seed, run),
        )
        curves = {size: of_case.curve(size, seed) for size in question.larger}
        harms = estimate_harms(course, question.larger, curves if compared else {})
        trials = [of_case.trials[size] for size in question.sizes]
        speedups = measured_speedups(trials[0], trials, of_case.step_time)
        decision = decide(question.current, speedups, harms)
        return Answer(decision, decision.batch_size, harms)

    return rule


def with_rates(share: float, user_rate: float = 1.0) -> Rule:
    """The product's trainings in their order, each of a share of the training, and their decision."""

    def rule(question: Question) -> Answer | None:
        of_case, seed = question.recorded, question.seed
        if not of_case.has(question.current, user_rate):
            return None
        run = min(question.epochs, max(LEAST_EPOCHS, share * question.epochs))
        unit = user_rate * of_case.factor(question.current)

        def by_rule(size: int) -> float:
            return of_case.factor(size) / of_case.factor(question.current)

        trainings = [of_case.training(question.current, seed, user_rate, run, unit)]
        rate = user_rate
        while True:
            judgement = judged(question, trainings, run)
            following = next_run(judgement, by_rule)
            if following is None:
                break
            size = following.batch_size
            rate = user_rate * 2.0 ** round(math.log2(following.learning_rate_factor / by_rule(size)))
            if not of_case.has(size, rate):
                break
            trainings.append(of_case.training(size, seed, rate, run, unit))
        size = judgement.decision.batch_size
        walked = judgement.rates.get(size)
        # Of an untrained size at a lowered rate the record may have nothing: its question is left out.
        octaves = min(octaves_below(judgement, size, by_rule), 0)
        if walked is not None:
            octaves = round(math.log2(walked.factor / by_rule(size)))
        return Answer(judgement.decision, size, judgement.harms, user_rate * 2.0**octaves, user_rate)

    return rule


def judged(question: Question, trainings: list[Training], run: float) -> Judgement:
    """The product's judgement of recorded trainings."""
    of_case = question.recorded
    check = Check(
        status=CheckStatus.NOISE_ONLY,
        batch_size=question.current,
        noise_points=of_case.noise(question.seed, run),
        trainings=tuple(trainings),
    )
    judgement = judge(
        TrialSet(tuple(of_case.trials[size] for size in question.sizes)),
        check,
        current_size=question.current,
        samples=of_case.samples,
        epochs=question.epochs,
    )
    assert judgement is not None
    return judgement


def time_to_loss(question: Question) -> Answer:
    """The answer before same epochs: the shortest time to the same loss, by the noise of a tenth."""
    of_case = question.recorded
    run = max(LEAST_EPOCHS, 0.1 * question.epochs)
    row = of_case.rows[of_case.case.batch_size, question.seed]
    scales = [scale for at, scale in noise_of(row) if at <= 1.02 * run][-3:]
    belief = critical_batch.posterior(critical_batch_size(scales))
    choice = critical_batch.pick(question.sizes, belief, of_case.step_time, current_size=question.current)
    return Answer(None, choice.batch_size, {})


def fastest(question: Question) -> Answer:
    size = max(question.sizes, key=lambda size: question.recorded.log_speedup(question.current, size))
    return Answer(None, size, {})


def largest(question: Question) -> Answer:
    return Answer(None, question.sizes[-1], {})


RULES: dict[str, Rule] = {
    **{f"autobatch, {share:.0%} of the training": autobatch(share) for share in SHARES},
    "autobatch, all of it": autobatch(1.0),
    "autobatch, all of it at all sizes": autobatch(1.0, compared=True),
    **{f"autobatch, {share:.0%}, epochs unknown": autobatch(share, epochs_known=False) for share in SHARES},
    **{
        f"autobatch, {share:.0%} at all sizes, epochs unknown": autobatch(
            share, epochs_known=False, compared=True
        )
        for share in SHARES
    },
    **{f"autobatch with rates, {share:.0%}": with_rates(share) for share in (*SHARES, 1.0)},
    **{
        f"autobatch with rates, {share:.0%}, from {name} the rate": with_rates(share, rate)
        for name, rate in (("half", 0.5), ("twice", 2.0))
        for share in (*SHARES, 1.0)
    },
    "time to the same loss": time_to_loss,
    "fastest throughput": fastest,
    "largest that fits": largest,
}


@dataclass(frozen=True)
class Score:
    """A decision as the other seeds judge it. Harms and speedups are logarithms.

    `errors`: the estimated harms of all sizes, in their standard deviations from the other seeds' mean.
    """

    question: Question
    size: int
    best: int
    harm: float
    harm_error: float
    speedup: float
    best_speedup: float
    decision: Decision | None
    errors: tuple[float, ...]

    def above(self, limit: float, *, surely: bool) -> bool:
        return self.harm - self.harm_error * surely > math.log(limit)


def score(rule: Rule, question: Question) -> Score | None:
    of_case, current = question.recorded, question.current
    answer = rule(question)
    if answer is None or not of_case.has(answer.size, answer.rate):
        return None
    size, rates = answer.size, (answer.user_rate, answer.rate)
    others = [seed for seed in of_case.seeds if seed != question.seed]
    truth = {
        other: [of_case.log_harm(current, other, question.epochs, seed) for seed in others]
        for other in question.sizes
    }
    harms = [of_case.log_harm(current, size, question.epochs, seed, rates) for seed in others]
    safe = [current, *(s for s in question.larger if _harm(question, s) <= math.log1p(HARM_TOLERANCE))]
    best = max(safe, key=lambda other: of_case.log_speedup(current, other))
    return Score(
        question=question,
        size=size,
        best=best,
        harm=fmean(harms),
        harm_error=stdev(harms) / math.sqrt(len(harms)) if len(harms) > 1 else 0.0,
        speedup=of_case.log_speedup(current, size),
        best_speedup=of_case.log_speedup(current, best),
        decision=answer.decision,
        errors=tuple((fmean(truth[s]) - e.log_harm) / e.sd for s, e in answer.harms.items() if e.sd),
    )


def _harm(question: Question, size: int) -> float:
    """The geometric mean over all seeds, in logarithms."""
    of_case = question.recorded
    return fmean(of_case.log_harm(question.current, size, question.epochs, seed) for seed in of_case.seeds)


def summary(scores: list[Score]) -> dict[str, float]:
    """The figures of a rule over all decisions."""
    gained = sum(min(s.speedup, s.best_speedup) for s in scores)
    figures = {
        "decisions": len(scores),
        "mean_harm": math.exp(fmean(s.harm for s in scores)),
        "worst_harm": math.exp(max(s.harm for s in scores)),
        "speedup": math.exp(fmean(s.speedup for s in scores)),
        "best_safe_speedup": math.exp(fmean(s.best_speedup for s in scores)),
        "share": gained / sum(s.best_speedup for s in scores),
    }
    errors = [error for s in scores for error in s.errors]
    if errors:
        figures["harms_within_one_sd"] = fmean(abs(error) < 1 for error in errors)
    for limit in LIMITS:
        name = f"above_{limit - 1:.0%}"
        figures[name] = fmean(s.above(limit, surely=False) for s in scores)
        figures[f"{name}_surely"] = fmean(s.above(limit, surely=True) for s in scores)
    return {name: round(value, 4) for name, value in figures.items()}


def calibration(scores: list[Score]) -> dict[str, dict[str, float]]:
    """By confidence in words: how many decisions, the mean stated probability, and how many were right."""
    rows_of: dict[str, list[tuple[float, bool]]] = {}
    for s in scores:
        if s.decision is not None:
            word = f"{s.decision.action}, {s.decision.level}"
            rows_of.setdefault(word, []).append((s.decision.confidence, _right(s)))
    return {
        word: {
            "decisions": len(rows),
            "stated": round(fmean(stated for stated, _ in rows), 3),
            "right": round(fmean(right for _, right in rows), 3),
        }
        for word, rows in sorted(rows_of.items())
    }


def _right(s: Score) -> bool:
    """As autobatch.decision.confidence defines it."""
    if s.decision is not None and s.decision.action is Action.CHANGE:
        return s.speedup >= math.log(1.05) and s.harm <= math.log(1.05)
    return s.best_speedup < math.log(1.05)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="write results/same_epochs.json")
    parser.add_argument("--each", action="store_true", help="print the answers to each question too")
    options = parser.parse_args()
    document: dict[str, object] = {}
    head = ("mean", "worst", ">5%", "surely", ">10%", "surely", "speedup", "share")
    print(f"{'rule':50}" + "".join(f"{name:>9}" for name in head))
    for name, rule in RULES.items():
        scores = [scored for question in questions() if (scored := score(rule, question)) is not None]
        if not scores:
            continue
        s, ends = summary(scores), calibration(scores)
        document[name] = {"summary": s, "calibration": ends, "answers": answers(scores)}
        harms = ("mean_harm", "worst_harm", "above_5%", "above_5%_surely", "above_10%", "above_10%_surely")
        row = "".join(f"{s[column]:9.3f}" for column in (*harms, "speedup", "share"))
        print(f"{name:50}{row}", flush=True)
        if options.each:
            print(json.dumps(ends), *answers(scores).items(), sep="\n  ")
    if options.save:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


def answers(scores: list[Score]) -> dict[str, str]:
    """The sizes of each question's seeds, with their harm and speedup."""
    texts: dict[str, str] = {}
    for s in scores:
        q = s.question
        name = f"{q.recorded.case.name}, {q.epochs:g} epochs at {q.current} (best {s.best})"
        text = f"{s.size} ({math.exp(s.harm):.3f}, {math.exp(s.speedup):.1f}x)"
        texts[name] = f"{texts[name]}; {text}" if name in texts else text
    return texts


if __name__ == "__main__":
    main()

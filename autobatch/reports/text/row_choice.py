"""The choice of trials to show: every size once, those around the answer, and those that one line sums up."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome, Trial

# Rows around the answer in the report without `-v`.
_ROWS_AROUND = 5
# More refinement rows than this become one line with their number.
_REFINEMENTS = 2


def around_answer(recommendation: Recommendation) -> list[Trial]:
    """The answer, the current size and the sizes nearest to the answer: at most five, ascending."""
    trials = latest(recommendation)
    kept = (recommendation.batch_size, recommendation.workload.batch_size)
    rank = next(rank for rank, trial in enumerate(trials) if trial.batch_size == recommendation.batch_size)
    nearest = sorted(
        range(len(trials)), key=lambda place: (trials[place].batch_size not in kept, abs(place - rank))
    )
    return [trials[place] for place in sorted(nearest[:_ROWS_AROUND])]


def sorted_out(recommendation: Recommendation) -> tuple[list[Trial], list[Trial], list[Trial]]:
    """Return (shown, folded, out of memory above the first): the latest trial of each size, by batch size.

    A refinement is a size that passed after the first failure: it narrows the ceiling and says little
    about speed. The ceiling, the fastest, the current and the recommended size are always shown.
    """
    trials, chosen = recommendation.trials, recommendation.chosen
    by_size = latest(recommendation)
    first_failure = next((number for number, trial in enumerate(trials) if not trial.ok), len(trials))
    refined = {trial.batch_size for trial in trials[first_failure:]}
    passed = [trial for trial in by_size if trial.ok]
    fastest = max(passed, key=rate_of)
    kept = {
        chosen.batch_size,
        fastest.batch_size,
        recommendation.ceiling.batch_size,
        recommendation.workload.batch_size,
    }
    folded = [trial for trial in passed if trial.batch_size in refined - kept]
    folded = folded if len(folded) > _REFINEMENTS else []
    largest = passed[-1].batch_size
    above = [
        trial for trial in by_size if trial.outcome is Outcome.OUT_OF_MEMORY and trial.batch_size > largest
    ]
    hidden = {trial.batch_size for trial in (*folded, *above[1:])}
    return [trial for trial in by_size if trial.batch_size not in hidden], folded, above[1:]


def latest(recommendation: Recommendation) -> list[Trial]:
    """Return the latest trial of each size, by batch size; for the recommended size, the trial chosen."""
    chosen = recommendation.chosen
    by_size = {trial.batch_size: trial for trial in recommendation.trials} | {chosen.batch_size: chosen}
    return [by_size[size] for size in sorted(by_size)]


def folded_text(folded: Sequence[Trial]) -> str:
    """Summarize the refinements that are not shown."""
    return f"{len(folded)} more sizes from {folded[0].batch_size:,} to {folded[-1].batch_size:,} fit"


def further_text(failures: Sequence[Trial]) -> str:
    """Summarize the sizes out of memory above the smallest of them."""
    largest = failures[-1].batch_size
    where = f"{largest:,}" if len(failures) == 1 else f"{len(failures)} larger sizes up to {largest:,}"
    return f"out of memory at {where} as well"


def rate_of(trial: Trial) -> float:
    """Return samples per second for comparisons: 0 if they were not measured."""
    rate = trial.samples_per_second
    return rate if rate is not None and isfinite(rate) else 0.0

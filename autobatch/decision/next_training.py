"""Pure: which sizes the check trains for a while, and what it believes after each of these trainings.

The user's own size comes first, since the others are judged against it, then whichever size would be
chosen if it ended here, with the learning rate of the rule and with half of that. From then on only
trainings that can change the answer are worth their time: those of sizes that, as far as is known, may still
turn out quicker than the choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf

from autobatch.decision import critical_batch, loss_curves
from autobatch.decision.constants import MOST_TRAINED_SIZES, RAISED_RATE, RESOLUTION
from autobatch.decision.critical_batch import Belief
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.step_time import StepTimeLaw
from autobatch.records.check import Training, Veto
from autobatch.records.trial import Outcome

_REPAIRABLE = (Outcome.OK, Outcome.DIVERGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What is known before any training: the sizes that were timed, the law of their steps, the noise.

    `reference_size` is what the others are judged against. `current_size`, the user's, wins ties and is what
    the learning rates are meant for; None where none was named: the reference size then stands for it.
    They are scaled by `power`; None where no rule is known for the optimizer: then they stay.
    """

    sizes: tuple[int, ...]
    law: StepTimeLaw
    prior: CriticalBatchSize
    reference_size: int
    current_size: int | None
    power: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the contest stands: the belief in B_crit, the sizes still allowed, and the one to choose."""

    belief: Belief
    matched: loss_curves.Matched | None
    vetoed: tuple[Veto, ...]
    allowed: tuple[int, ...]
    choice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A training to run."""

    batch_size: int
    learning_rate_factor: float


def standing(contest: Contest, trainings: Sequence[Training]) -> Standing:
    """What all trainings so far come to."""
    matched = loss_curves.match(loss_curves.sound(contest.reference_size, trainings))
    belief = critical_batch.posterior(contest.prior, matched.pooled if matched else ())
    vetoed = vetoes(contest.reference_size, trainings)
    allowed = without_vetoed(contest.sizes, contest.reference_size, vetoed)
    choice = critical_batch.pick(
        allowed, belief, contest.law, current_size=contest.current_size, has_trainings=len(trainings) > 1
    )
    return Standing(belief=belief, matched=matched, vetoed=vetoed, allowed=allowed, choice=choice.batch_size)


def next_entry(contest: Contest, trainings: Sequence[Training]) -> Entry | None:
    """The training to run next; None where no further one can change the answer much."""
    return next(_entries(contest, trainings), None)


def next_entries(contest: Contest, trainings: Sequence[Training], most: int) -> tuple[Entry, ...]:
    """The trainings to run at the same time next, `most` of them at most, the first that of `next_entry`.

    None waits for what another one shows: all are worth their time by what is known now.
    """
    return tuple(islice(_entries(contest, trainings), most))


def _entries(contest: Contest, trainings: Sequence[Training]) -> Iterator[Entry]:
    """What is worth a training as things stand, the most urgent first."""
    now = standing(contest, trainings)
    trained = loss_curves.best_of_each(trainings)
    own = trained.get(contest.reference_size)
    if own is None:
        if not _contested(contest, now):
            return
        yield _entry(contest, now, contest.reference_size)
    elif loss_curves.why_worse(own, own):
        return
    else:
        yield from _again(now, own, trainings)
    taken = {contest.reference_size, *trained}
    while (size := _most_worthwhile(contest, now, taken)) is not None:
        yield _entry(contest, now, size)
        taken.add(size)


def _entry(contest: Contest, now: Standing, size: int) -> Entry:
    return Entry(batch_size=size, learning_rate_factor=learning_rate_factor(contest, now.belief, size))


def vetoes(reference_size: int, trainings: Sequence[Training]) -> tuple[Veto, ...]:
    """The sizes that trained worse than the base size, with half the learning rate too, or not at all."""
    trained = loss_curves.best_of_each(trainings)
    own = trained.get(reference_size)
    if own is None:
        return ()
    reasons = {
        size: loss_curves.why_worse(own, one) for size, one in trained.items() if size != reference_size
    }
    return tuple(
        Veto(batch_size=size, reason=reason)
        for size, reason in sorted(reasons.items())
        if reason
        and (sum(one.batch_size == size for one in trainings) > 1 or trained[size].outcome not in _REPAIRABLE)
    )


def without_vetoed(sizes: Sequence[int], reference_size: int, vetoed: Sequence[Veto]) -> tuple[int, ...]:
    """The sizes that may be chosen: a veto above the base size holds for everything larger too."""
    out = {veto.batch_size for veto in vetoed}
    below = min((size for size in out if size > reference_size), default=inf)
    return tuple(size for size in sizes if size < below and size not in out)


def learning_rate_factor(contest: Contest, belief: Belief, size: int) -> float:
    """What the learning rates are multiplied by at `size`; 1 where no rule is known."""
    if contest.power is None:
        return 1.0
    own = contest.current_size or contest.reference_size
    return critical_batch.scaled_learning_rate(1.0, own, size, belief.batch_size, contest.power)


def _contested(contest: Contest, now: Standing) -> bool:
    """Whether another size is chosen than the base size, or could still turn out to be the better one."""
    return now.choice != contest.reference_size or _most_worthwhile(contest, now, ()) is not None


def _again(now: Standing, own: Training, trainings: Sequence[Training]) -> Iterator[Entry]:
    """What to train once more with half the learning rate: all that was rejected at its first go, and the
    choice, where its rate was raised: the rule may have gone too far.

    The present rate may be close to the largest that this model bears at any batch size.
    """
    tries = Counter(one.batch_size for one in trainings)
    once = [one for one in trainings if one is not own and tries[one.batch_size] == 1]
    rejected = [one for one in once if one.outcome in _REPAIRABLE and loss_curves.why_worse(own, one)]
    raised = [one for one in once if one.learning_rate_factor >= RAISED_RATE and one not in rejected]
    for one in (*rejected, *(one for one in raised if one.batch_size == now.choice)):
        yield Entry(batch_size=one.batch_size, learning_rate_factor=one.learning_rate_factor / 2)


def _most_worthwhile(contest: Contest, now: Standing, trained: Collection[int]) -> int | None:
    """The size to train: the choice itself, else the candidate that may save the most time beyond it."""
    if len(trained) >= MOST_TRAINED_SIZES:
        return None
    if now.choice not in trained and now.choice != contest.reference_size:
        return now.choice
    gains = {
        size: critical_batch.possible_gain(size, now.choice, now.belief, contest.law)
        for size in critical_batch.candidates(now.allowed, now.belief, contest.law, contest.current_size)
        if size not in trained and size != contest.reference_size
    }
    best = max(gains, key=gains.__getitem__, default=None)
    return best if best is not None and gains[best] >= RESOLUTION else None

"""Pure: the law of time to a target loss over batch size, and the choice it makes.

    steps(B) = S_min (1 + B_crit / B)     McCandlish et al. 2018, "An Empirical Model of Large-Batch Training"
    T(B) = (1 + B_crit / B) t(B) S_min    with t(B) = a + b B: the best size is sqrt(B_crit a / b)

Being off that size by a factor r costs at most (r + 1/r + 2) / 4: twice too large or small costs 13% at most,
so a crude critical batch size will do. t(B) comes from `autobatch.decision.step_time`: the measured curve
where it isn't affine.

Short trainings at a few candidates update the belief in B_crit by the steps that each took to the same loss.
S_min cancels out, as it is the same for all (after Shallue et al. 2018).

Sizes and critical batch sizes are in samples, times in seconds or, where called relative, in units of
S_min seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot, inf, isfinite, log, sqrt
from statistics import fmean

from autobatch.decision.constants import (
    CONFIDENCE,
    GRID_POINTS,
    OPEN_SPAN,
    TOLERANCE,
    TRAINING_LOG_SD,
)
from autobatch.decision.noise_scale import CriticalBatchSize
from autobatch.decision.quantiles import Z_TWO_SIDED
from autobatch.decision.step_time import StepTimeLaw
from autobatch.records.check import LossKind

# The power of the noise rule for the learning rate, by optimizer class; for others there is no rule.
_LEARNING_RATE_POWERS = {
    "SGD": 1.0,
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "Nadam", "RAdam", "Adamax", "SparseAdam"), 0.5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """The distribution of the critical batch size: an ascending grid with weights that add up to 1."""

    critical: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def batch_size(self) -> float:
        """The median."""
        return self.quantile(0.5)

    @property
    def interval(self) -> tuple[float, float]:
        """90% of the belief."""
        return self.quantile(0.05), self.quantile(0.95)

    @property
    def log_sd(self) -> float:
        """Standard deviation of ln B_crit."""
        logs = [log(x) for x in self.critical]
        centre = sum(w * value for w, value in zip(self.weights, logs, strict=True))
        return sqrt(sum(w * (value - centre) ** 2 for w, value in zip(self.weights, logs, strict=True)))

    def quantile(self, share: float) -> float:
        """The size below which `share` of the belief lies."""
        below = 0.0
        for i, weight in enumerate(self.weights):
            if below + weight >= share and weight > 0:
                last = max(i - 1, 0)
                part = (share - below) / weight
                low, high = log(self.critical[last]), log(self.critical[i])
                return exp(low + part * (high - low))
            below += weight
        return self.critical[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The size to take, the best by expected time, and all sizes that are tied with the best."""

    batch_size: int
    best: int
    tied: tuple[int, ...]


def relative_time(size: float, critical: float, law: StepTimeLaw) -> float:
    """Time to a target loss in units of S_min: (1 + B_crit / B) t(B)."""
    return (1 + critical / size) * law.step_seconds_at(size)


def accumulated_time(size: int, steps: int, critical: float, law: StepTimeLaw) -> float:
    """Relative time with gradients accumulated over `steps` batches of `size`: never shorter than without."""
    return (1 + critical / (size * steps)) * steps * law.step_seconds_at(size)


def best_size(sizes: Sequence[int], critical: float, law: StepTimeLaw) -> int:
    """The size with the shortest time to the target; the smallest of equals. B_crit may be infinite."""
    return min(sorted(sizes), key=lambda size: _comparable_time(size, critical, law))


def regret_bound(size: int, sizes: Sequence[int], interval: tuple[float, float], law: StepTimeLaw) -> float:
    """Time at `size` over that at the best of `sizes`, at worst over an interval of B_crit.

    For any other size the ratio is monotone in B_crit, so the worst lies at an end of the interval.
    """
    return max(
        _comparable_time(size, critical, law) / min(_comparable_time(n, critical, law) for n in sizes)
        for critical in interval
    )


def candidates(
    sizes: Sequence[int], belief: Belief, law: StepTimeLaw, current_size: int | None = None
) -> tuple[int, ...]:
    """At most four sizes to try, ascending: the current one, and the best at three points of the belief."""
    best = {best_size(sizes, belief.quantile(share), law) for share in (1 - CONFIDENCE, 0.5, CONFIDENCE)}
    if current_size is not None and current_size in sizes:
        best.add(current_size)
    return tuple(sorted(best))


def posterior(prior: CriticalBatchSize, observed: Sequence[tuple[int, float]] = ()) -> Belief:
    """The belief in B_crit after trainings: pairs of a batch size and its steps to the same loss.

        log p(x) = -(ln x - ln B_crit)^2 / 2 sd^2 - sum_B residual_B^2 / (2 * 0.25^2)

    with residual_B that of ln s_B - ln(1 + x / B) from its mean, as S_min is unknown. Without a valid noise
    scale the prior is flat upwards from the lower bound. Raises ValueError where there is no bound either.
    """
    logs, scores = _prior(prior)
    scores = [score + _likelihood(exp(x), observed) for x, score in zip(logs, scores, strict=True)]
    top = max(scores)
    weights = [exp(score - top) for score in scores]
    total = sum(weights)
    return Belief(critical=tuple(exp(x) for x in logs), weights=tuple(weight / total for weight in weights))


def expected_log_time(size: int, belief: Belief, law: StepTimeLaw) -> float:
    """E[ln((1 + B_crit / B) t(B))] over the belief: its differences are log ratios of times."""
    statistical = sum(
        weight * log(1 + critical / size)
        for critical, weight in zip(belief.critical, belief.weights, strict=True)
    )
    return statistical + log(law.step_seconds_at(size))


def possible_gain(size: int, choice: int, belief: Belief, law: StepTimeLaw) -> float:
    """The gain of `size` over `choice` if B_crit were known: E[max(0, ln(T_choice / T_size))].

    A training at `size` can't be worth more than this share of the time, as all it can give is B_crit.
    """
    ratio = law.step_seconds_at(choice) / law.step_seconds_at(size)
    return sum(
        weight * max(0.0, log(ratio * (1 + critical / choice) / (1 + critical / size)))
        for critical, weight in zip(belief.critical, belief.weights, strict=True)
    )


def pick(
    sizes: Sequence[int],
    belief: Belief,
    law: StepTimeLaw,
    *,
    current_size: int | None = None,
    within: Sequence[int] | None = None,
) -> Choice:
    """The current size where it is tied with the best, else the middle of the sizes with the shortest times.

    `sizes` are those that were measured; the choice is one of `within`, of all if not given. There is
    nothing to gain at the edge of the tie: on recorded GPU trainings with a rough B_crit, the tied size
    nearest to the current one took 9% longer than the best in hindsight on average, the expected best 6%, and
    the smallest of the tied three times as long at worst.

    Raises ValueError where there is no size.
    """
    allowed = sorted(sizes if within is None else within)
    if not allowed:
        raise ValueError("no size to pick from")
    cost = {size: expected_log_time(size, belief, law) for size in sizes}
    best = min(allowed, key=lambda size: cost[size])
    tied = tuple(size for size in allowed if cost[size] <= cost[best] + log(1 + TOLERANCE))
    chosen = (
        current_size if current_size is not None and current_size in tied else _central(cost, tied, law.noise)
    )
    return Choice(batch_size=chosen, best=best, tied=tied)


def _central(cost: Mapping[int, float], tied: Sequence[int], noise: float) -> int:
    """The tied size nearest to the mean of ln B over all sizes, weighted by exp(-cost / noise).

    Noisy times make the cheapest size of a flat valley a matter of luck; its middle is stable.
    """
    least = min(cost.values())
    weights = {size: exp((least - each) / noise) for size, each in cost.items()}
    centre = sum(weight * log(size) for size, weight in weights.items()) / sum(weights.values())
    return min(tied, key=lambda size: (abs(log(size) - centre), cost[size]))


def learning_rate_power(optimizer: str) -> float | None:
    """The power of the noise rule that all optimizers of a training have in common; None without one.

    `optimizer`: the classes of all of them, joined as in Workload, such as `SparseAdam and Adam`.
    """
    powers = {_LEARNING_RATE_POWERS.get(kind) for kind in optimizer.split(" and ")}
    return powers.pop() if len(powers) == 1 else None


def scaled_learning_rate(
    learning_rate: float, current_size: int, size: int, critical: float, power: float
) -> float:
    """The learning rate at `size` that matches `learning_rate` at `current_size`, by the noise rule.

    AdaScale's gain (Johnson et al. 2020), ((1 + B_crit / B0) / (1 + B_crit / B))^power: power 1 for SGD,
    where it saturates by itself, 1/2 for Adam (as in AdaptDL). Adam's best rate can fall past the critical
    batch size (Li et al. 2024), so with a power below 1 it stays flat from there on.
    """
    if critical == inf:
        return float(learning_rate * (size / current_size) ** power)
    most = critical if power < 1 else inf
    gain = (
        (1 + critical / min(current_size, most)) / (1 + critical / min(size, most)) if critical > 0 else 1.0
    )
    return float(learning_rate * gain**power)


def sum_correction(kind: LossKind, power: float | None, current_size: int, size: int) -> float:
    """The factor of learning rates by which steps of a sum over `size` samples stay those of their mean.

    The noise rule is that of a mean. The gradient of a sum over B samples is B times as large, and so is a
    step of SGD, the optimizers of power 1: lr_sum(B) = lr_mean(B) / B. A step of Adam and its kind does not
    depend on the scale of the gradient. Sizes are those that a single loss is summed over: of a rank, without
    accumulation, as both average over losses.
    """
    return current_size / size if kind is LossKind.SUM and power == 1.0 else 1.0


def time_ratio(size: int, other: int, critical: float, law: StepTimeLaw) -> float:
    """Time to the same loss at `size` over that at `other`. B_crit may be infinite."""
    return _comparable_time(size, critical, law) / _comparable_time(other, critical, law)


def prediction_interval(ratio: float, ends: Sequence[float]) -> tuple[float, float]:
    """The 90% interval of a ratio that the law predicts, from its values at the ends of B_crit's interval.

    Sizes depart from the law itself, with a standard deviation of 5% on recorded trainings
    (benchmarks/mlperf_replay.py): the interval of B_crit alone held 74% of them.
    """
    of_law = Z_TWO_SIDED * TOLERANCE
    down, up = max(log(ratio / min(ends)), 0.0), max(log(max(ends) / ratio), 0.0)
    return ratio * exp(-hypot(down, of_law)), ratio * exp(hypot(up, of_law))


def epochs_ratio(current_size: int, size: int, critical: float) -> float:
    """Epochs to the same loss at `size` over those at `current_size`: (B + B_crit) / (B0 + B_crit)."""
    return (size + critical) / (current_size + critical) if isfinite(critical) else 1.0


def kept_half_life(decay: float, current_size: int, size: int) -> float:
    """The momentum or beta that forgets after as many samples at `size` as `decay` does at `current_size`.

    beta^(B / B0): the half-life in samples stays (Marek et al. 2025).
    """
    return float(decay ** (size / current_size))


def _comparable_time(size: float, critical: float, law: StepTimeLaw) -> float:
    """Relative time over 1 + B_crit, which is finite for any B_crit."""
    share = 1 / size if critical == inf else (1 + critical / size) / (1 + critical)
    return share * law.step_seconds_at(size)


def _prior(prior: CriticalBatchSize) -> tuple[list[float], list[float]]:
    """The grid of ln x and the log prior on it."""
    if isfinite(prior.batch_size) and isfinite(prior.log_sd) and prior.batch_size > 0:
        # Half of the grid's points lie beyond the interval, where trainings may move the belief.
        step = 4 * Z_TWO_SIDED / (GRID_POINTS - 1)
        places = [i * step - 2 * Z_TWO_SIDED for i in range(GRID_POINTS)]
        centre = log(prior.batch_size)
        return [centre + z * prior.log_sd for z in places], [-z * z / 2 for z in places]
    if prior.low <= 0:
        raise ValueError("nothing is known of the critical batch size: neither an estimate nor a lower bound")
    span = log(OPEN_SPAN)
    return [log(prior.low) + span * i / (GRID_POINTS - 1) for i in range(GRID_POINTS)], [0.0] * GRID_POINTS


def _likelihood(critical: float, observed: Sequence[tuple[int, float]]) -> float:
    if len(observed) < 2:
        return 0.0
    offsets = [log(steps) - log(1 + critical / size) for size, steps in observed]
    centre = fmean(offsets)
    return -sum((offset - centre) ** 2 for offset in offsets) / (2 * TRAINING_LOG_SD**2)

"""The kind of loss from losses and gradients that follow from their samples by a known rule."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.loss_kind import Passes, exact_kind, likely_kind
from autobatch.records.check import LossKind

MEAN, SUM, BATCH_DEPENDENT, UNKNOWN = LossKind
TOLERANCE = 3e-4
HALF = 8
# A sample is its loss and its gradient. A rule makes those of a batch out of them.
Sample = tuple[float, ...]
Rule = Callable[[Sequence[Sample], random.Random], Sample]


def total(samples: Sequence[Sample]) -> Sample:
    return tuple(map(sum, zip(*samples, strict=True)))


def mean(samples: Sequence[Sample], _: random.Random) -> Sample:
    return tuple(value / len(samples) for value in total(samples))


def summed(samples: Sequence[Sample], _: random.Random) -> Sample:
    return total(samples)


def weighted(samples: Sequence[Sample], _: random.Random) -> Sample:
    weights = [1 + abs(sample[1]) for sample in samples]
    parts = [[w * value for value in sample] for w, sample in zip(weights, samples, strict=True)]
    return tuple(value / sum(weights) for value in total([tuple(part) for part in parts]))


def penalized(rule: Rule, strength: float) -> Rule:
    return lambda samples, draw: tuple(value + strength for value in rule(samples, draw))


def noisy(rule: Rule, spread: float) -> Rule:
    return lambda samples, draw: tuple(value * draw.gauss(1, spread) for value in rule(samples, draw))


def two_means(samples: Sequence[Sample], draw: random.Random) -> Sample:
    both = mean(samples, draw), weighted(samples, draw)
    return total(both)


def contrastive(samples: Sequence[Sample], draw: random.Random) -> Sample:
    """At first, a sample is no nearer to its pair than to any other."""
    loss, *gradient = mean(samples, draw)
    return (log(len(samples)) + loss / 10, *gradient)


def passes(
    rule: Rule, batches: int = 16, seed: int = 0, entries: int = 6, hides_gradient: bool = False
) -> Passes:
    draw = random.Random(seed)
    made: list[Sample] = []
    for _ in range(batches):
        whole = [(draw.uniform(1, 3), *(draw.gauss(0.3, 1) for _ in range(entries))) for _ in range(2 * HALF)]
        first, second = whole[:HALF], whole[HALF:]
        made += [rule(samples, draw) for samples in (first, second, whole, first + first, first)]
    products = tuple(
        tuple(sum(a * b for a, b in zip(left[1:], right[1:], strict=True)) for right in made) for left in made
    )
    return Passes(losses=tuple(row[0] for row in made), products=None if hides_gradient else products)


@given(seed=st.integers(0, 1000), entries=st.integers(1, 12), hides_gradient=st.booleans())
@pytest.mark.parametrize(("rule", "kind"), [(mean, MEAN), (summed, SUM)])
def test_one_batch_decides_where_an_equation_is_exact(
    rule: Rule, kind: LossKind, seed: int, entries: int, hides_gradient: bool
) -> None:
    assert exact_kind(passes(rule, 1, seed, entries, hides_gradient), TOLERANCE) is kind


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
@pytest.mark.parametrize(("rule", "kind"), [(mean, MEAN), (summed, SUM)])
def test_the_unit_of_the_loss_does_not_matter(rule: Rule, kind: LossKind, seed: int, scale: float) -> None:
    def scaled(samples: Sequence[Sample], draw: random.Random) -> Sample:
        return tuple(scale * value for value in rule(samples, draw))

    assert exact_kind(passes(scaled, 1, seed), TOLERANCE) is kind


@given(seed=st.integers(0, 1000))
def test_unequal_weights_and_a_penalty_are_a_mean_all_the_same(seed: int) -> None:
    assert exact_kind(passes(weighted, 1, seed), TOLERANCE) is MEAN
    assert exact_kind(passes(penalized(mean, 5.0), 1, seed), TOLERANCE) is MEAN


@pytest.mark.parametrize("rule", [two_means, contrastive, noisy(mean, 0.05), penalized(summed, 20.0)])
def test_one_batch_does_not_decide_where_no_equation_is_exact(rule: Rule) -> None:
    assert exact_kind(passes(rule, 1), TOLERANCE) is None


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (two_means, MEAN),
        (noisy(mean, 0.02), MEAN),
        (noisy(summed, 0.02), SUM),
        (penalized(summed, 20.0), SUM),
        (contrastive, BATCH_DEPENDENT),
        (noisy(contrastive, 0.01), BATCH_DEPENDENT),
    ],
)
def test_several_batches_decide(rule: Rule, kind: LossKind, seed: int) -> None:
    assert likely_kind(passes(rule, seed=seed), TOLERANCE) is kind


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize(("rule", "kind"), [(noisy(mean, 0.5), MEAN), (noisy(summed, 0.5), SUM)])
def test_much_noise_leaves_it_open_rather_than_wrong(rule: Rule, kind: LossKind, seed: int) -> None:
    assert likely_kind(passes(rule, seed=seed), TOLERANCE) in (kind, UNKNOWN)


@pytest.mark.parametrize("seed", range(10))
def test_a_contrastive_loss_without_its_gradient_depends_on_the_batch(seed: int) -> None:
    found = passes(contrastive, seed=seed, hides_gradient=True)
    assert likely_kind(found, TOLERANCE) is BATCH_DEPENDENT


def test_too_few_batches_leave_it_open() -> None:
    assert likely_kind(passes(contrastive, 3), TOLERANCE) is UNKNOWN
    assert likely_kind(passes(noisy(mean, 3.0), 4), TOLERANCE) is UNKNOWN


def test_losses_that_are_all_nothing_leave_it_open() -> None:
    nothing = Passes(losses=(0.0,) * 80, products=((0.0,) * 80,) * 80)
    assert exact_kind(nothing.first(1), TOLERANCE) is None
    assert likely_kind(nothing, TOLERANCE) is UNKNOWN


def test_infinite_losses_and_gradients_are_seen() -> None:
    assert passes(mean, 2).are_finite
    assert not Passes(losses=(1.0, float("nan"))).are_finite
    assert not Passes(losses=(1.0,), products=((float("inf"),),)).are_finite

"""The last batch of an epoch is tried where it may fail, and is a row of the table where it does."""

from __future__ import annotations

import pytest

from autobatch.decision.recommender import recommend
from autobatch.decision.warnings import warnings_about
from autobatch.measurement.budget import Budget
from autobatch.measurement.climb import Climb
from autobatch.measurement.last_batch import try_last_batch
from autobatch.records.limits import Limits
from autobatch.records.trial import Curve, Outcome
from tests.simulated import Machine, SimulatedEngine


def probed(machine: Machine, limits: Limits) -> tuple[Curve, list[int]]:
    """(the curve of a climb with its last batch, the sizes tried after the climb)."""
    engine = SimulatedEngine(machine, limits)
    curve = Climb(engine, limits).run()
    climbed = len(engine.tries)
    curve = try_last_batch(engine, curve, None, limits, Budget.of(limits, engine))
    return curve, engine.tries[climbed:]


def test_a_last_batch_below_the_sizes_that_were_tried_is_a_row_and_a_warning() -> None:
    """nncf 379; fastai 1352; stable-baselines3 1025."""
    limits = Limits(min_batch=8, max_batch=64, check=False)
    curve, tries = probed(Machine(dataset_size=769, smallest_trained=2), limits)
    answer = recommend(curve, None, limits)
    assert answer.batch_size == 64
    assert tries == [1, 64, 1]
    assert (curve.trials[-1].batch_size, curve.trials[-1].outcome) == (1, Outcome.FAILED)
    (warning,) = [text for text in warnings_about(answer) if "last batch" in text]
    assert warning.startswith("at 64 the last batch of an epoch has 1 sample, and training fails there")
    assert "more than 1 samples are needed" in warning
    assert "drop_last=True" in warning


def test_a_last_batch_that_failed_in_the_climb_is_not_tried_again() -> None:
    limits = Limits(max_batch=64, check=False)
    curve, tries = probed(Machine(dataset_size=769, smallest_trained=2), limits)
    assert tries == []
    assert any("has 1 sample" in text for text in warnings_about(recommend(curve, None, limits)))


@pytest.mark.parametrize(
    ("samples", "limits"),
    [
        (768, Limits(min_batch=8, max_batch=64, check=False)),
        (784, Limits(min_batch=8, max_batch=64, check=False)),
        (None, Limits(min_batch=8, max_batch=64, check=False)),
    ],
)
def test_without_a_small_last_batch_nothing_is_tried(samples: int | None, limits: Limits) -> None:
    curve, tries = probed(Machine(dataset_size=samples, smallest_trained=2), limits)
    assert tries == []
    assert not any("last batch" in text for text in warnings_about(recommend(curve, None, limits)))


def test_a_last_batch_that_is_no_whole_multiple_is_tried() -> None:
    limits = Limits(multiple_of=3, max_batch=48, check=False)
    failures = {size: "no whole triples" for size in range(60) if size % 3}
    curve, tries = probed(Machine(dataset_size=500, failures=failures), limits)
    assert recommend(curve, None, limits).batch_size == 48
    assert tries == [500 % 48, 48, 500 % 48]
    assert any("no whole triples" in text for text in warnings_about(recommend(curve, None, limits)))


def test_a_last_batch_that_passes_leaves_no_row() -> None:
    limits = Limits(min_batch=8, max_batch=64, check=False)
    curve, tries = probed(Machine(dataset_size=769), limits)
    assert tries == [1]
    assert all(trial.ok for trial in curve.trials)

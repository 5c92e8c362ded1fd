"""The trainings of a check as records: the same samples for all, and the evidence about sizes."""

from __future__ import annotations

import pytest

from autobatch.decision.loss_curves import about_sizes
from autobatch.decision.next_training import Run, TrainingPlan
from autobatch.measurement.trainings import Trainings
from autobatch.records.check import CheckStatus
from autobatch.records.limits import Limits
from tests import builders
from tests.simulated import Machine, SimulatedEngine

SIZES = (32, 64, 128)
MACHINE = Machine(step_seconds=lambda size: 1e-3 * (1 + size / 256), critical_batch_size=400.0)


def trainings(engine: SimulatedEngine) -> Trainings:
    plan = TrainingPlan(
        sizes=SIZES,
        law=builders.affine_law(256, SIZES),
        prior=builders.critical_batch_size(400.0),
        reference_size=32,
        current_size=32,
        power=1.0,
    )
    check = builders.check(400.0, batch_size=32)
    return Trainings(engine, plan, check, limits=Limits(seed=3), largest_part=64, announce=lambda what: None)


def test_all_are_judged_on_the_samples_of_the_first() -> None:
    engine = SimulatedEngine(MACHINE)
    several = trainings(engine)
    for seconds, size in ((4.0, 32), (1.0, 64), (0.1, 128)):
        assert several.run([Run(batch_size=size, learning_rate_factor=1.0)], seconds)
    assert len({(command.samples, command.part_size) for command in engine.train_commands}) == 1
    assert [command.seconds for command in engine.train_commands] == [4.0, 1.0, 0.1]
    assert [training.batch_size for training in several.done] == [32, 64, 128]
    assert several.check.status is CheckStatus.PASSED
    assert several.check.matched_loss is not None


@pytest.mark.parametrize(
    ("size", "factor", "counts"), [(32, 2.0, False), (32, 0.5, False), (64, 4.0, False), (64, 1.0, True)]
)
def test_tried_rates_tell_nothing_about_sizes_unless_they_are_lower(
    size: int, factor: float, counts: bool
) -> None:
    several = trainings(SimulatedEngine(MACHINE))
    for run in (Run(batch_size=32, learning_rate_factor=1.0), Run(batch_size=64, learning_rate_factor=2.0)):
        several.run([run], 2.0)
    before = several.check.critical_batch_size
    several.run([Run(batch_size=size, learning_rate_factor=factor)], 2.0)
    assert (len(about_sizes(32, several.done)) == 3) == counts
    if not counts:
        assert several.check.critical_batch_size == before


def test_a_training_that_can_not_be_run_is_explained() -> None:
    engine = SimulatedEngine(Machine(training_deaths={32}))
    several = trainings(engine)
    several.run([Run(batch_size=32, learning_rate_factor=1.0)], 1.0)
    assert several.check.status is CheckStatus.NOISE_ONLY
    assert several.check.detail.startswith("at batch size 32: ")
    several.explain("another reason")
    assert several.check.detail.startswith("at batch size 32: ")

"""Every size of the check keeps to the limits: its trainings, its chunks and its held-out parts."""

from __future__ import annotations

import pytest

from autobatch.measurement.check import GeneralizationCheck
from autobatch.records.device import Device
from autobatch.records.limits import Limits
from autobatch.records.trial import Ceiling, Curve, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload
from tests.simulated import Machine, SimulatedEngine

MACHINE = Machine(
    step_seconds=lambda size: 2e-3 + 2e-5 * size,
    noise_scale=1e6,
    critical_batch_size=2e6,
    current_batch_size=48,
)


@pytest.mark.parametrize(("multiple_of", "min_batch"), [(3, 1), (2, 4), (24, 1), (1, 40)])
def test_every_size_in_the_check_is_allowed_and_at_most_the_ceiling(multiple_of: int, min_batch: int) -> None:
    limits = Limits(budget_seconds=20.0, multiple_of=multiple_of, min_batch=min_batch)
    sizes = [limits.smallest * factor for factor in (1, 2, 4, 8, 16, 32, 64)]
    trials = tuple(
        Trial(
            batch_size=size,
            outcome=Outcome.OK,
            step_seconds=(MACHINE.step_seconds(size),) * 5,
            samples_per_second=size / MACHINE.step_seconds(size),
        )
        for size in sizes
    )
    # The verification rejected the largest, though it passed in the climb.
    ceiling = Ceiling(batch_size=sizes[-2], limited_by=LimitedBy.MEMORY, verified=True)
    workload = Workload(
        target="simulated",
        model="Simulated",
        parameters=0,
        loss="none",
        optimizer="SGD",
        learning_rate=0.1,
        dataset_size=20_000,
        batch_size=48,
        epochs=2.0,
    )
    device = Device(kind="simulated", index=0, name="simulated device")
    engine = SimulatedEngine(MACHINE)
    about = Curve(trials=trials, ceiling=ceiling, workload=workload, device=device)
    GeneralizationCheck(engine, about, limits).run()
    (noise,) = engine.noise_commands
    assert (noise.smallest_chunk, noise.multiple_of) == (limits.smallest, multiple_of)
    (kind,) = engine.loss_kind_commands
    chosen = {noise.batch_size, noise.largest_chunk, kind.half_size, kind.most_samples}
    for command in engine.train_commands:
        chosen |= {command.batch_size, command.part_size}
    assert len(engine.train_commands) > 1
    assert all(size % multiple_of == 0 and limits.smallest <= size <= sizes[-2] for size in chosen)
